// SPDX-License-Identifier: GPL-2.0-only
/*
 * Interrupts by eventfd, with the rules of vfio-pci: INTx, MSI and MSI-X exclude each other,
 * MSI cannot grow while it is on, INTx masks itself when it fires, loopback triggers by NONE and
 * BOOL.
 */
#include <linux/slab.h>

#include "mock.h"

int mock_irq_count(unsigned int index)
{
	switch (index) {
	case MOCK_IRQ_MSI:
		return mock_msi;
	case MOCK_IRQ_MSIX:
		return mock_msix;
	case MOCK_IRQ_INTX:
	case MOCK_IRQ_ERR:
	case MOCK_IRQ_REQ:
		return 1;
	}
	return 0;
}

int mock_irqs_init(struct mock *mock)
{
	struct mock_irqs *irqs = &mock->irqs;
	unsigned int index;

	mutex_init(&irqs->gate);
	spin_lock_init(&irqs->lock);
	for (index = 0; index < MOCK_NUM_IRQS; index++) {
		struct mock_irq *irq = &irqs->index[index];

		irq->count = mock_irq_count(index);
		irq->triggers = kcalloc(irq->count ? irq->count : 1, sizeof(*irq->triggers),
					GFP_KERNEL);
		if (!irq->triggers) {
			mock_irqs_free(mock);
			return -ENOMEM;
		}
	}
	return 0;
}

void mock_irqs_free(struct mock *mock)
{
	unsigned int index;

	for (index = 0; index < MOCK_NUM_IRQS; index++)
		kfree(mock->irqs.index[index].triggers);
}

int mock_irq_info(struct vfio_irq_info *info)
{
	switch (info->index) {
	case MOCK_IRQ_INTX:
		info->flags = VFIO_IRQ_INFO_EVENTFD | VFIO_IRQ_INFO_MASKABLE |
			      VFIO_IRQ_INFO_AUTOMASKED;
		break;
	case MOCK_IRQ_MSIX:
		info->flags = VFIO_IRQ_INFO_EVENTFD;
		break;
	case MOCK_IRQ_MSI:
	case MOCK_IRQ_ERR:
	case MOCK_IRQ_REQ:
		info->flags = VFIO_IRQ_INFO_EVENTFD | VFIO_IRQ_INFO_NORESIZE;
		break;
	default:
		return -EINVAL;
	}
	info->count = mock_irq_count(info->index);
	return 0;
}

/* Called with irqs->lock held */
static void signal(struct mock_irqs *irqs, struct eventfd_ctx *trigger)
{
	if (!trigger)
		return;
	compat_eventfd_signal(trigger);
	irqs->signaled++;
}

/* Called with irqs->lock held: INTx fires if it is asserted, on and not masked, and masks itself */
static void intx_update(struct mock_irqs *irqs)
{
	struct mock_irq *intx = &irqs->index[MOCK_IRQ_INTX];

	if (!irqs->asserted || !intx->enabled || irqs->masked)
		return;
	irqs->masked = true;
	signal(irqs, intx->triggers[0]);
}

/*
 * Raise an interrupt, as the device does. An interrupt without an eventfd is lost; one that does
 * not exist is EINVAL.
 */
int mock_irq_raise(struct mock *mock, u32 name)
{
	struct mock_irqs *irqs = &mock->irqs;
	u32 index = name >> 16, vector = name & 0xffff;

	if (name == MOCK_IRQ_NONE)
		return 0;
	if (index >= MOCK_NUM_IRQS || vector >= irqs->index[index].count)
		return -EINVAL;
	spin_lock(&irqs->lock);
	if (index == MOCK_IRQ_INTX) {
		irqs->asserted = true;
		intx_update(irqs);
	} else if (vector < irqs->index[index].enabled) {
		signal(irqs, irqs->index[index].triggers[vector]);
	}
	spin_unlock(&irqs->lock);
	return 0;
}

void mock_irq_deassert(struct mock *mock)
{
	spin_lock(&mock->irqs.lock);
	mock->irqs.asserted = false;
	spin_unlock(&mock->irqs.lock);
}

static void intx_mask(struct mock_irqs *irqs)
{
	spin_lock(&irqs->lock);
	irqs->masked = true;
	spin_unlock(&irqs->lock);
}

static void intx_unmask(struct mock_irqs *irqs)
{
	spin_lock(&irqs->lock);
	irqs->masked = false;
	intx_update(irqs);
	spin_unlock(&irqs->lock);
}

#if IS_ENABLED(CONFIG_VFIO_VIRQFD)
/* Runs in a workqueue: the eventfd's wake-up must not take a lock under which eventfds are signalled */
static void intx_unmask_by_eventfd(void *opaque, void *data)
{
	intx_unmask(opaque);
}

static int intx_set_unmask_eventfd(struct mock_irqs *irqs, int fd)
{
	if (fd >= 0)
		return vfio_virqfd_enable(irqs, NULL, intx_unmask_by_eventfd, NULL, &irqs->unmask,
					  fd);
	vfio_virqfd_disable(&irqs->unmask);
	return 0;
}
#else
static int intx_set_unmask_eventfd(struct mock_irqs *irqs, int fd)
{
	return fd >= 0 ? -ENOTTY : 0;
}
#endif

/* Called with irqs->gate held. Replaces triggers, and releases the old ones. */
static void replace(struct mock_irqs *irqs, struct mock_irq *irq, unsigned int start,
		    unsigned int count, struct eventfd_ctx **triggers, unsigned int enabled)
{
	unsigned int i;

	spin_lock(&irqs->lock);
	for (i = 0; i < count; i++)
		swap(irq->triggers[start + i], triggers[i]);
	irq->enabled = enabled;
	spin_unlock(&irqs->lock);
	for (i = 0; i < count; i++)
		if (triggers[i])
			eventfd_ctx_put(triggers[i]);
}

/* Called with irqs->gate held. Sets all of the eventfds, or returns an error and sets none. */
static int set_eventfds(struct mock_irqs *irqs, struct mock_irq *irq,
			const struct vfio_irq_set *set, const s32 *fds, unsigned int enabled)
{
	struct eventfd_ctx **triggers;
	unsigned int i;
	int ret = 0;

	triggers = kcalloc(set->count, sizeof(*triggers), GFP_KERNEL);
	if (!triggers)
		return -ENOMEM;
	for (i = 0; i < set->count; i++) {
		if (fds[i] < 0)
			continue;
		triggers[i] = eventfd_ctx_fdget(fds[i]);
		if (IS_ERR(triggers[i])) {
			ret = PTR_ERR(triggers[i]);
			triggers[i] = NULL;
			goto err;
		}
	}
	replace(irqs, irq, set->start, set->count, triggers, enabled);
	kfree(triggers);
	return 0;
err:
	while (i--)
		if (triggers[i])
			eventfd_ctx_put(triggers[i]);
	kfree(triggers);
	return ret;
}

/* Called with irqs->gate held */
static void disable(struct mock_irqs *irqs, unsigned int index)
{
	struct mock_irq *irq = &irqs->index[index];
	unsigned int vector;

	if (index == MOCK_IRQ_INTX)
		intx_set_unmask_eventfd(irqs, -1);
	for (vector = 0; vector < irq->count; vector++) {
		struct eventfd_ctx *none = NULL;

		replace(irqs, irq, vector, 1, &none, 0);
	}
	if (index == MOCK_IRQ_INTX) {
		spin_lock(&irqs->lock);
		irqs->masked = false;
		spin_unlock(&irqs->lock);
	}
}

static bool other_enabled(struct mock_irqs *irqs, unsigned int index)
{
	unsigned int other;

	for (other = MOCK_IRQ_INTX; other <= MOCK_IRQ_MSIX; other++)
		if (other != index && irqs->index[other].enabled)
			return true;
	return false;
}

/* DATA_NONE triggers every vector of the request, DATA_BOOL those with a true byte */
static void loopback(struct mock_irqs *irqs, struct mock_irq *irq, const struct vfio_irq_set *set,
		     const u8 *bools)
{
	unsigned int i;

	spin_lock(&irqs->lock);
	for (i = 0; i < set->count; i++)
		if (!bools || bools[i])
			signal(irqs, irq->triggers[set->start + i]);
	spin_unlock(&irqs->lock);
}

/* INTx, MSI and MSI-X */
static int set_trigger(struct mock_irqs *irqs, const struct vfio_irq_set *set, u32 type, void *data)
{
	struct mock_irq *irq = &irqs->index[set->index];
	unsigned int end = set->start + set->count;
	int ret;

	if (irq->enabled && !set->count && type == VFIO_IRQ_SET_DATA_NONE) {
		disable(irqs, set->index);
		return 0;
	}
	if (other_enabled(irqs, set->index))
		return -EINVAL;
	if (set->index == MOCK_IRQ_INTX && set->count != 1)
		return -EINVAL;
	if (type != VFIO_IRQ_SET_DATA_EVENTFD) {
		if (!irq->enabled)
			return -EINVAL;
		loopback(irqs, irq, set, type == VFIO_IRQ_SET_DATA_BOOL ? data : NULL);
		return 0;
	}
	if (!set->count)
		return irq->enabled ? 0 : -EINVAL;
	if (irq->enabled && end > irq->enabled && set->index == MOCK_IRQ_MSI)
		return -EINVAL;
	ret = set_eventfds(irqs, irq, set, data, max(irq->enabled, end));
	if (!ret && set->index == MOCK_IRQ_INTX) {
		spin_lock(&irqs->lock);
		intx_update(irqs);
		spin_unlock(&irqs->lock);
	}
	return ret;
}

/*
 * ERR and REQ: one eventfd, independent of the other indexes. fd -1, or DATA_NONE with count 0,
 * switches it off
 */
static int set_single(struct mock_irqs *irqs, const struct vfio_irq_set *set, u32 type, void *data)
{
	struct mock_irq *irq = &irqs->index[set->index];

	switch (type) {
	case VFIO_IRQ_SET_DATA_NONE:
		if (!irq->enabled)
			return -EINVAL;
		if (set->count)
			loopback(irqs, irq, set, NULL);
		else
			disable(irqs, set->index);
		return 0;
	case VFIO_IRQ_SET_DATA_BOOL:
		if (!set->count)
			return -EINVAL;
		loopback(irqs, irq, set, data);
		return 0;
	case VFIO_IRQ_SET_DATA_EVENTFD:
		if (!set->count || *(s32 *)data < -1)
			return -EINVAL;
		if (*(s32 *)data >= 0)
			return set_eventfds(irqs, irq, set, data, 1);
		disable(irqs, set->index);
		return 0;
	}
	return -EINVAL;
}

static int set_mask(struct mock_irqs *irqs, const struct vfio_irq_set *set, u32 type, void *data)
{
	bool unmask = set->flags & VFIO_IRQ_SET_ACTION_UNMASK;

	if (!irqs->index[MOCK_IRQ_INTX].enabled || set->count != 1)
		return -EINVAL;
	if (type == VFIO_IRQ_SET_DATA_EVENTFD)
		return unmask ? intx_set_unmask_eventfd(irqs, *(s32 *)data) : -ENOTTY;
	if (type == VFIO_IRQ_SET_DATA_BOOL && !*(u8 *)data)
		return 0;
	if (unmask)
		intx_unmask(irqs);
	else
		intx_mask(irqs);
	return 0;
}

int mock_irqs_set(struct mock *mock, const struct vfio_irq_set *set, void *data)
{
	u32 action = set->flags & VFIO_IRQ_SET_ACTION_TYPE_MASK;
	u32 type = set->flags & VFIO_IRQ_SET_DATA_TYPE_MASK;
	struct mock_irqs *irqs = &mock->irqs;
	int ret = -ENOTTY;

	mutex_lock(&irqs->gate);
	if (action == VFIO_IRQ_SET_ACTION_TRIGGER)
		ret = set->index <= MOCK_IRQ_MSIX ? set_trigger(irqs, set, type, data)
						  : set_single(irqs, set, type, data);
	else if (set->index == MOCK_IRQ_INTX &&
		 (action == VFIO_IRQ_SET_ACTION_MASK || action == VFIO_IRQ_SET_ACTION_UNMASK))
		ret = set_mask(irqs, set, type, data);
	mutex_unlock(&irqs->gate);
	return ret;
}

/* At close */
void mock_irqs_off(struct mock *mock)
{
	struct mock_irqs *irqs = &mock->irqs;
	unsigned int index;

	mutex_lock(&irqs->gate);
	for (index = 0; index < MOCK_NUM_IRQS; index++)
		disable(irqs, index);
	mutex_unlock(&irqs->gate);
	mock_irq_deassert(mock);
}
