// SPDX-License-Identifier: GPL-2.0-only
/*
 * A processor that never answers again: loading this module does not return, with
 * interrupts off. Only an NMI reaches the processor then.
 */
#include <linux/irqflags.h>
#include <linux/module.h>

static int __init spin_init(void)
{
	local_irq_disable();
	for (;;)
		cpu_relax();
	return 0;
}

module_init(spin_init);

MODULE_DESCRIPTION("Spin with interrupts off, for the tests of vmtest");
MODULE_LICENSE("GPL");
