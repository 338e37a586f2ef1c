# SPDX-License-Identifier: MIT
"""iommufd in the mock: an open /dev/iommu, its objects, and its 22 ioctls.

Each kind of object has a module, as in :mod:`pyvfio.iommufd`, with the ioctls that create and use it.
:mod:`~pyvfio.mock.iommufd.context` is the open file that holds the objects.
"""

from pyvfio.mock.iommufd import event_queue as _event_queue  # noqa: F401 (registers its requests)
from pyvfio.mock.iommufd import fault_queue as _fault_queue  # noqa: F401 (registers its requests)
from pyvfio.mock.iommufd import hw_info as _hw_info  # noqa: F401 (registers its requests)
from pyvfio.mock.iommufd import hw_pagetable as _hw_pagetable  # noqa: F401 (registers its requests)
from pyvfio.mock.iommufd import hw_queue as _hw_queue  # noqa: F401 (registers its requests)
from pyvfio.mock.iommufd import selftest as _selftest  # noqa: F401 (registers its requests)
from pyvfio.mock.iommufd import vdevice as _vdevice  # noqa: F401 (registers its requests)
from pyvfio.mock.iommufd.compat import Iommufd as Iommufd
