// SPDX-License-Identifier: GPL-2.0-only
/*
 * The VF token, which works as for a virtual function of vfio-pci: it is given in the name string
 * of VFIO_GROUP_GET_DEVICE_FD ("vfio-mock.0 vf_token=UUID"), or at VFIO_DEVICE_BIND_IOMMUFD.
 */
#include <linux/moduleparam.h>
#include <linux/string.h>
#include <linux/uuid.h>

#include "mock.h"

static char token[UUID_STRING_LEN + 2];
module_param_string(token, token, sizeof(token), 0644);
MODULE_PARM_DESC(token, "UUID that opening a device needs; empty: none (none)");

/* A missing or wrong token is EACCES, an unneeded one EINVAL */
int mock_match_token_uuid(struct vfio_device *vdev, const uuid_t *uuid)
{
	char text[sizeof(token)];
	uuid_t wanted;

	kernel_param_lock(THIS_MODULE);
	strscpy(text, token, sizeof(text));
	kernel_param_unlock(THIS_MODULE);
	/* Remove the newline that echo writes */
	strim(text);
	if (!*text)
		return uuid ? -EINVAL : 0;
	if (uuid_parse(text, &wanted))
		return -EINVAL;
	return uuid && uuid_equal(uuid, &wanted) ? 0 : -EACCES;
}

/*
 * The buffer has the device's name, then options. Return 1 for this device, 0 for another one, or
 * -errno for this device with wrong options
 */
int mock_match(struct vfio_device *vdev, char *buf)
{
	const char *name = dev_name(vdev->dev);
	size_t length = strlen(name);
	bool found = false;
	uuid_t uuid;
	char *word;
	int ret;

	if (strncmp(buf, name, length) || (buf[length] && buf[length] != ' '))
		return 0;
	for (buf += length; *(buf = skip_spaces(buf)); buf += strcspn(buf, " ")) {
		word = buf;
		if (found || strncmp(word, "vf_token=", 9) ||
		    strcspn(word, " ") != 9 + UUID_STRING_LEN || uuid_parse(word + 9, &uuid))
			return -EINVAL;
		found = true;
	}
	ret = mock_match_token_uuid(vdev, found ? &uuid : NULL);
	return ret ? ret : 1;
}
