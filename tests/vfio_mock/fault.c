// SPDX-License-Identifier: GPL-2.0-only
/*
 * Failure injection: the n-th call of a kind fails.
 */
#include "mock.h"

/* Called at open, before the fault of open itself is checked; so that one is kept. */
void mock_faults_reset(struct mock *mock)
{
	unsigned int kind;

	spin_lock(&mock->fault_lock);
	for (kind = 0; kind < MOCK_NUM_FAULTS; kind++) {
		if (kind == MOCK_FAULT_OPEN && mock->faults[kind].error)
			continue;
		mock->faults[kind] = (struct mock_fault){ .error = EIO };
	}
	spin_unlock(&mock->fault_lock);
}

/* Count a call, and return the errno with which it must fail, or 0 */
int mock_fault(struct mock *mock, unsigned int kind)
{
	struct mock_fault *fault = &mock->faults[kind];
	int ret = 0;

	spin_lock(&mock->fault_lock);
	fault->calls++;
	if (fault->nth && !--fault->nth) {
		fault->fired++;
		ret = -(int)fault->error;
	}
	spin_unlock(&mock->fault_lock);
	return ret;
}

int mock_fault_read(struct mock *mock, u32 offset, u64 *value)
{
	struct mock_fault fault;

	spin_lock(&mock->fault_lock);
	fault = mock->faults[offset / MOCK_FAULT_SIZE];
	spin_unlock(&mock->fault_lock);

	switch (offset % MOCK_FAULT_SIZE) {
	case MOCK_FAULT_NTH:
		*value = fault.nth;
		return 0;
	case MOCK_FAULT_ERRNO:
		*value = fault.error;
		return 0;
	case MOCK_FAULT_CALLS:
		*value = fault.calls;
		return 0;
	case MOCK_FAULT_FIRED:
		*value = fault.fired;
		return 0;
	}
	return -EINVAL;
}

int mock_fault_write(struct mock *mock, u32 offset, u64 value)
{
	struct mock_fault *fault = &mock->faults[offset / MOCK_FAULT_SIZE];
	int ret = 0;

	spin_lock(&mock->fault_lock);
	switch (offset % MOCK_FAULT_SIZE) {
	case MOCK_FAULT_NTH:
		fault->nth = value;
		break;
	case MOCK_FAULT_ERRNO:
		if (value && value <= MAX_ERRNO)
			fault->error = value;
		else
			ret = -EINVAL;
		break;
	default:
		ret = -EINVAL;
	}
	spin_unlock(&mock->fault_lock);
	return ret;
}
