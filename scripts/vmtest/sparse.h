/* SPDX-License-Identifier: MIT */
/* Replacements for keywords and built-ins that the kernel uses and sparse 0.6.4 does not know. */
#define __typeof_unqual__ __typeof__
#define __builtin_strlen(string) (sizeof(string) - 1)
