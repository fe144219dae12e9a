"""The models by their names in `model.kind`."""

from clipmapper.models.stock.base import StockModel
from clipmapper.models.stock.blip import Blip
from clipmapper.models.stock.llava import Llava

STOCK: dict[str, type[StockModel]] = {"llava": Llava, "blip": Blip}
