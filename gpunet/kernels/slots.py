"""The numbers that Python and the CUDA sources share: the places in `clock` and `hyper`, the fault
bits, the shapes of blocks. The sources get them from here (`registry.prelude`)."""

STEP, START, VALID, FAULT, ROWS, PENDING, ARRIVED, BEFORE = range(8)
"""Places in `clock`, int64 (8,): updates done, first row of the batch, valid rows in it, fault
bits, rows of the epoch. PENDING and ARRIVED are zero between kernels. Within a batch that is taken
in micro-batches, START and VALID are those of the rest of it, BEFORE the rows that were taken; it
is zero between steps."""

LR, DECAY, BETA1, BETA2, EPSILON, CORRECTION1, CORRECTION2, CLIP, SCALE, LIMIT, FADE = range(11)
"""Places in `hyper`, float64 (16,). CLIP multiplies gradients, SCALE the learning rate of the
table, FADE the rates of dropout; LIMIT is the largest gradient norm."""

FAULT_LOSS, FAULT_GRADIENT, FAULT_PARAMETER = 1, 2, 4
"""Bits of clock[FAULT]: what was not finite."""

THREADS = 256
"""Threads of every block."""

TILE_COLUMNS, TILE_ROUNDS = 32, 8
"""Tiles of columns: the widest, and the rows of one that each thread has."""

FEW_ROWS, LOSS_ROUNDS = 256, 4
"""Rows that are one tile, however narrow, so that it has whole sums of columns; and the rounds in
which one block may take all rows of a loss."""

MOST_STRIPS = 65_535
"""Strips of columns of a grid, at most: what its second dimension holds on every GPU."""

PARTIALS = 512
"""Partial sums of a norm, at most."""

NORM_EPSILON, NORM_MOMENTUM = 1e-5, 0.1
"""What norms add to a variance; the share of the newest batch in the running statistics."""


def c_constants() -> str:
    """The same names for C."""
    constants = {name: value for name, value in globals().items() if name.isupper()}
    return "".join(f"#define {name} {value}\n" for name, value in constants.items())
