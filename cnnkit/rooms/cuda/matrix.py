"""One tile for tensor cores: convolution, its gradients and dense layers of float16, bfloat16 and tf32.

Two products of the same two operands, summed in float32. x lies channels last and is taken where it lies, as a matrix
of positions (n, d, h, w of an output) by features (i, j, k of the kernel, then a channel):

    forward    y[position, o]    = sum over features of   x[position, feature] * weight[o, feature]
    back       sums[feature, o]  = sum over positions of  x[position, feature] * grad[position, o]

counts     positions, features, outputs of a group, how many last digits of a row are wanted, groups, terms of a split,
           whether there is a bias, the code of an activation, whether y has rows closer together than outputs
positions  what `digits` takes to make (n, d, h, w) of a position, and `features` to make (i, j, k, c) of a feature
sizes      depth, height and width of x
moves      stride, dilation and padding before, per axis
xs bs ys   steps of x (n, d, h, w, group), of the other operand (a line, a group), and of y (the four digits of a row,
           output, group, split)
"""

from typing import Any, NamedTuple

import numpy as np
from numba import cuda, types

from cnnkit.rooms.cuda.activations import activation
from cnnkit.rooms.cuda.instructions import (
    MULTIPLY,
    NARROW,
    WIDEN,
    address,
    columns_of_words,
    commit,
    copy_async,
    get,
    put,
    rounded_to_tf32,
    rows_of_words,
    wait,
    wait_for_all,
    word,
)
from cnnkit.rooms.cuda.places import below, digits, part

STAGES = 3  # tiles in shared memory: one is used while two arrive
LINE = 64  # bytes of a tile's line along the terms: 32 halves, or 16 tf32
PIECE = 16  # bytes of one copy


class Tile(NamedTuple):
    """How many warps share a tile, down its rows and across its outputs, and how many 16x8 sums each has of both."""

    down: int
    across: int
    tall: int
    wide: int

    @property
    def rows(self) -> int:
        return self.down * self.tall * 16

    @property
    def columns(self) -> int:
        return self.across * self.wide * 8

    @property
    def threads(self) -> int:
        return self.down * self.across * 32


WIDE, SLIM = Tile(4, 2, 2, 8), Tile(4, 2, 2, 4)  # 128 rows by 128 or by 64 outputs


def product(kind: str, back: bool, tile: Tile) -> Any:
    """Sums of products on tensor cores: a block owns a tile of results for a group and a split of its terms.

    Moves a line of x and of the other operand 16 bytes at a time, straight to shared memory, two steps ahead of their
    use, with zeros for what lies in the padding or beyond an end. Each step is 64 bytes of terms: 32 `MULTIPLY` a warp
    in the wide tile, for 12 loads of words. Pieces of a line lie at ``piece ^ line``, so that 8 threads that read 8
    lines, or write one, meet 8 different banks. In the end the sums pass through the same memory, a line of warps at a
    time, to be stored along the axis of y that lies closest together.
    """
    size = 4 if kind == "float32" else 2
    vector, depth = PIECE // size, LINE // size  # numbers of a piece, and terms of a step
    down, across, tall, wide = tile
    rows, columns, threads = tile.rows, tile.columns, tile.threads
    x_pieces, b_pieces = (rows // vector, columns // vector) if back else (LINE // PIECE, LINE // PIECE)
    x_bytes, stage = rows * LINE, (rows + columns) * LINE
    x_lines, b_lines = threads // x_pieces, threads // b_pieces  # lines that all threads copy at once
    x_copies, b_copies = rows * LINE // PIECE // threads, columns * LINE // PIECE // threads
    up, low = (size // 4, 0) if back else (0, 1)  # which bits of a line's number tell lines apart that are read at once
    words = columns_of_words if back else rows_of_words
    one_by_one = back and kind == "float32"  # `columns_of_words` turns halves, not words
    multiply, rounds = MULTIPLY[kind], kind == "float32"
    shelf, tall_rows = columns + 1, tall * 16
    shared_words = max(STAGES * stage // 4, tall_rows * shelf)
    activated = activation(types.float32)
    whole = kind == "float32" or back  # what is stored is float32
    narrow: Any = NARROW.get(kind)
    widen: Any = WIDEN.get(kind)

    @part
    def at(line, piece, pieces):
        """Where a piece lies in a tile."""
        return np.int32(PIECE * (line * pieces + (piece ^ (((line << up) >> low) & (min(pieces, 8) - 1)))))

    @part
    def fetch(x, b, place, k, last, corner, counts, positions, features, sizes, moves, xs, bs):
        """Begin to copy the terms from k on."""
        t = cuda.threadIdx.x
        m0, n0, group = corner
        line, piece = t // x_pieces, t % x_pieces
        for i in range(x_copies):
            r = line + i * x_lines
            if back:
                p, f, p_end, f_end = k + r, m0 + vector * piece, last, counts[1]
            else:
                p, f, p_end, f_end = m0 + r, k + vector * piece, counts[0], last
            n, d, h, w = digits(p, positions)
            d, h, w = d * moves[0] - moves[6], h * moves[1] - moves[7], w * moves[2] - moves[8]
            tap_d, tap_h, tap_w, c = digits(f, features)
            tap_d, tap_h, tap_w = tap_d * moves[3], tap_h * moves[4], tap_w * moves[5]
            inside = below(d + tap_d, sizes[0]) and below(h + tap_h, sizes[1]) and below(w + tap_w, sizes[2])
            index, count = np.int32(0), 0
            if inside and p < p_end and f < f_end:
                index = np.int32(n * xs[0] + d * xs[1] + h * xs[2] + w * xs[3] + group * xs[4])
                index = np.int32(index + np.int32(tap_d * xs[1] + tap_h * xs[2] + tap_w * xs[3] + c))
                count = PIECE
            copy_async(place + at(r, piece, x_pieces), x, index, count)
        line, piece = t // b_pieces, t % b_pieces
        for i in range(b_copies):
            r = line + i * b_lines
            if back:
                row, column, row_end, column_end = k + r, n0 + vector * piece, last, counts[2]
            else:
                row, column, row_end, column_end = n0 + r, k + vector * piece, counts[2], last
            index, count = np.int32(0), 0
            if row < row_end and column < column_end:
                index, count = np.int32(row * bs[0] + group * bs[1] + column), PIECE
            copy_async(place + x_bytes + at(r, piece, b_pieces), b, index, count)

    def kernel(x, b, bias, y, counts, parameter, positions, features, sizes, moves, xs, bs, ys):
        shared = cuda.shared.array(shared_words, types.float32, PIECE)
        base = address(shared)
        sums = cuda.local.array((tall, wide, 4), types.float32)
        left = cuda.local.array((tall, 4), types.int32)
        right = cuda.local.array(4, types.int32)
        for i in range(tall):
            for j in range(wide):
                for r in range(4):
                    sums[i, j, r] = types.float32(0)
        t = cuda.threadIdx.x
        lane, warp = t % 32, t // 32
        down_warp, across_warp = warp // across, warp % across
        m0, n0 = cuda.blockIdx.x * rows, cuda.blockIdx.y * columns
        split = np.int32(np.uint32(cuda.blockIdx.z) // np.uint32(counts[4]))
        group = cuda.blockIdx.z - split * counts[4]
        terms = counts[0] if back else counts[1]
        first = split * counts[5]
        last = min(first + counts[5], terms)
        corner = (m0, n0, group)
        for s in range(STAGES - 1):
            fetch(
                x,
                b,
                base + s * stage,
                first + s * depth,
                last,
                corner,
                counts,
                positions,
                features,
                sizes,
                moves,
                xs,
                bs,
            )
            commit()
        # words one by one: where a thread's line and word of a piece lie, its first piece, by what its pieces turn
        x_word = np.int32(PIECE * x_pieces * (lane % 4) + 4 * (lane // 4 % 4))
        b_word = np.int32(PIECE * b_pieces * (lane % 4) + 4 * (lane // 4 % 4) + x_bytes)
        x_piece = np.int32(down_warp * tall * 4 + lane // 16)
        b_piece = np.int32(across_warp * wide * 2 + lane // 16)
        x_turn = np.int32(2 * (lane % 4) & (min(x_pieces, 8) - 1))
        b_turn = np.int32(2 * (lane % 4) & (min(b_pieces, 8) - 1))
        used, filled = base, base + (STAGES - 1) * stage
        for k in range(first + (STAGES - 1) * depth, last + (STAGES - 1) * depth, depth):
            wait()
            cuda.syncthreads()
            if k < last:
                fetch(x, b, filled, k, last, corner, counts, positions, features, sizes, moves, xs, bs)
            commit()
            for half in range(2):
                for i in range(tall):
                    if one_by_one:
                        for r in range(4):
                            line, piece = half * 8 + 4 * (r // 2), x_piece + 4 * i + 2 * (r % 2)
                            left[i, r] = word(used + x_word + PIECE * (line * x_pieces + (piece ^ x_turn)))
                    else:
                        if back:
                            line = half * 16 + lane % 8 + 8 * (lane // 16)
                            piece = (down_warp * tall + i) * 2 + lane // 8 % 2
                        else:
                            line = (down_warp * tall + i) * 16 + lane % 16
                            piece = half * 2 + lane // 16
                        four = words(used + at(line, piece, x_pieces))
                        left[i, 0], left[i, 1], left[i, 2], left[i, 3] = four[0], four[1], four[2], four[3]
                    if rounds:
                        for r in range(4):
                            left[i, r] = rounded_to_tf32(left[i, r])
                for j in range(wide // 2):
                    if one_by_one:
                        for r in range(4):
                            line, piece = half * 8 + 4 * (r % 2), b_piece + 4 * j + 2 * (r // 2)
                            right[r] = word(used + b_word + PIECE * (line * b_pieces + (piece ^ b_turn)))
                    else:
                        if back:
                            line = half * 16 + lane % 8 + 8 * (lane // 8 % 2)
                            piece = across_warp * wide + 2 * j + lane // 16
                        else:
                            line = (across_warp * wide + 2 * j) * 8 + lane % 8 + 8 * (lane // 16)
                            piece = half * 2 + lane // 8 % 2
                        four = words(used + x_bytes + at(line, piece, b_pieces))
                        right[0], right[1], right[2], right[3] = four[0], four[1], four[2], four[3]
                    if rounds:
                        for r in range(4):
                            right[r] = rounded_to_tf32(right[r])
                    for i in range(tall):
                        for r in range(2):
                            a0, a1, a2, a3 = left[i, 0], left[i, 1], left[i, 2], left[i, 3]
                            s0, s1 = sums[i, 2 * j + r, 0], sums[i, 2 * j + r, 1]
                            s2, s3 = sums[i, 2 * j + r, 2], sums[i, 2 * j + r, 3]
                            four = multiply(a0, a1, a2, a3, right[2 * r], right[2 * r + 1], s0, s1, s2, s3)
                            sums[i, 2 * j + r, 0], sums[i, 2 * j + r, 1] = four[0], four[1]
                            sums[i, 2 * j + r, 2], sums[i, 2 * j + r, 3] = four[2], four[3]
            used += stage
            if used == base + STAGES * stage:
                used = base
            filled += stage
            if filled == base + STAGES * stage:
                filled = base
        wait_for_all()  # where there was but one step, the second one's zeros
        if counts[8]:  # threads next to each other store rows next to each other, else outputs
            r0, r_step, c0, c_step = t % tall_rows, tall_rows, t // tall_rows, threads // tall_rows
        else:
            r0, r_step, c0, c_step = t // 32, threads // 32, t % 32, 32
        y0 = group * ys[5] + split * ys[6]
        mine = np.int32(base + 4 * (lane // 4 * shelf + across_warp * wide * 8 + lane % 4 * 2))
        for held in range(down):
            cuda.syncthreads()
            if held == down_warp:
                for i in range(tall):
                    for j in range(wide):
                        for r in range(4):
                            put(mine + 4 * ((i * 16 + 8 * (r // 2)) * shelf + j * 8 + r % 2), sums[i, j, r])
            cuda.syncthreads()
            line = r0
            while line < tall_rows:  # a range of a step that is not constant would divide by it
                row = m0 + held * tall_rows + line
                d0, d1, d2, d3 = digits(row, features if back else positions)
                if row < (counts[1] if back else counts[0]) and d3 < counts[3]:
                    y_row = y0 + d0 * ys[0] + d1 * ys[1] + d2 * ys[2] + d3 * ys[3]
                    column = c0
                    while column < columns and n0 + column < counts[2]:
                        o = n0 + column
                        total = get(base + 4 * (line * shelf + column))
                        if counts[6]:
                            if whole:
                                total += bias[group * counts[2] + o]
                            else:
                                total += widen(bias[group * counts[2] + o])
                        total = activated(counts[7], total, parameter)
                        if whole:
                            y[y_row + o * ys[4]] = total
                        else:
                            y[y_row + o * ys[4]] = narrow(total)
                        column += c_step
                line += r_step

    return kernel
