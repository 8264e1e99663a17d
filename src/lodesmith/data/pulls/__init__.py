"""Published collections as dataset folders. Each module without an underscore is one source, found by its file name.

>>> from lodesmith.data.pulls import expand
>>> expand("beir:quick")
('beir/scifact', 'beir/nfcorpus')
"""

from __future__ import annotations

from lodesmith.data.pulls._forecast import Forecast, forecast, total
from lodesmith.data.pulls._origin import Folder, Origin, Web, origin_of
from lodesmith.data.pulls._pulling import Pulled, expand, pull

__all__ = ["Folder", "Forecast", "Origin", "Pulled", "Web", "expand", "forecast", "origin_of", "pull", "total"]
