/* SPDX-License-Identifier: MIT */
/* For cffi only: C entry points that run Python. */
extern "Python" int pyvfio_python_ioctl(void *context, int fd, unsigned long request, void *argument);
