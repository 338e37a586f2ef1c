/* SPDX-License-Identifier: MIT */
/* For sparse 0.6.4, which is older than the kernel: what it does not know, as something that it does. */
#define __typeof_unqual__ __typeof__
#define __builtin_strlen(string) (sizeof(string) - 1)
