# SPDX-License-Identifier: MIT
"""iommufd in the mock: an open /dev/iommu, its objects, and the 22 requests that they answer.

An object is a file here, as in :mod:`pyvfio.iommufd`, with the requests that make and use it; :mod:`~pyvfio.mock.iommufd.context` is
the open file that they live in.
"""

from pyvfio.mock.iommufd import event_queue as _event_queue  # noqa: F401 (registers its requests)
from pyvfio.mock.iommufd import fault_queue as _fault_queue  # noqa: F401 (registers its requests)
from pyvfio.mock.iommufd import hw_info as _hw_info  # noqa: F401 (registers its requests)
from pyvfio.mock.iommufd import hw_pagetable as _hw_pagetable  # noqa: F401 (registers its requests)
from pyvfio.mock.iommufd import hw_queue as _hw_queue  # noqa: F401 (registers its requests)
from pyvfio.mock.iommufd import selftest as _selftest  # noqa: F401 (registers its requests)
from pyvfio.mock.iommufd import vdevice as _vdevice  # noqa: F401 (registers its requests)
from pyvfio.mock.iommufd.compat import Iommufd as Iommufd
