"""Are my answers right? The checks of the chapter `feed_forward`, one for each exercise.

Right answers come from PyTorch's own functions, modules and FLOP counter. A known mistake stands as the function that a
reader who makes it writes, with one sentence that names it and the way out. In `network`: the network, and its bug; in
`counts`: parameters and FLOPs; in `balance`: the crossover and the matched width; in `variants`: the collapsed network
and the gated one.
"""

from .balance import check_crossover, check_matched_width
from .counts import check_flops, check_parameters
from .network import check_feed_forward, check_find_the_bug
from .variants import check_collapse, check_swiglu

__all__ = [
    "check_collapse",
    "check_crossover",
    "check_feed_forward",
    "check_find_the_bug",
    "check_flops",
    "check_matched_width",
    "check_parameters",
    "check_swiglu",
]
