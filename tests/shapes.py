"""The type checker that conftest.py puts on lib: shapes by jaxtyping, and an int wherever a float may be."""

from beartype import BeartypeConf, beartype

checked = beartype(conf=BeartypeConf(is_pep484_tower=True))
