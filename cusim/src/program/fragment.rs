//! How `wmma` holds a matrix in the registers of a warp. The ISA leaves that open; here a product is two of
//! `mma.m16n8kK`, whose fragments it draws, one for each half of the accumulators. So does `ptxas` with m16n16k16. Where a has
//! eight rows, the product is that of the transposed matrices.

/// An operand of a product.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Side {
    A,
    B,
    /// The accumulators, c and d.
    C,
}

/// What `mMnNkK` says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Shape {
    pub(crate) m: usize,
    pub(crate) n: usize,
    pub(crate) k: usize,
}

impl Shape {
    /// That of a modifier.
    pub(crate) fn of(modifier: &str) -> Option<Self> {
        let [m, n, k] = match modifier {
            "m16n16k16" => [16, 16, 16],
            "m8n32k16" => [8, 32, 16],
            "m32n8k16" => [32, 8, 16],
            "m16n16k8" => [16, 16, 8],
            _ => return None,
        };
        Some(Self { m, n, k })
    }

    /// The products are of the transposed matrices.
    pub(crate) fn is_transposed(self) -> bool {
        self.m == 8
    }

    /// What an operand is to the products.
    pub(crate) fn inner(self, side: Side) -> Side {
        match side {
            Side::A if self.is_transposed() => Side::B,
            Side::B if self.is_transposed() => Side::A,
            side => side,
        }
    }

    /// The two products have the same `b` and two halves of `a`, one below the other; else it is the other way round.
    fn splits_a(self) -> bool {
        self.m != self.n
    }

    fn tiles(self, inner: Side) -> usize {
        match inner {
            Side::A => 1 + usize::from(self.splits_a()),
            Side::B => 2 - usize::from(self.splits_a()),
            Side::C => 2,
        }
    }
}

/// One matrix of a `wmma`.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Fragment {
    pub(crate) side: Side,
    pub(crate) shape: Shape,
    /// Elements in a register.
    pub(crate) packed: usize,
    /// How the matrix lies in memory.
    pub(crate) is_row_major: bool,
}

impl Fragment {
    /// Registers of one of the two products.
    pub(crate) fn of_product(&self) -> usize {
        match self.shape.inner(self.side) {
            Side::A => self.shape.k / 2 / self.packed,
            Side::B => self.shape.k / 4 / self.packed,
            Side::C => 4 / self.packed,
        }
    }

    /// Registers that differ.
    pub(crate) fn distinct(&self) -> usize {
        self.of_product() * self.shape.tiles(self.shape.inner(self.side))
    }

    /// Registers that the instruction names: of f16 always eight, some of them twice.
    pub(crate) fn registers(&self, is_f16: bool) -> usize {
        match self.side {
            Side::C => self.distinct(),
            _ if is_f16 => 8,
            _ => self.distinct(),
        }
    }

    /// The registers of a product.
    pub(crate) fn registers_of(&self, product: usize) -> std::ops::Range<usize> {
        let tile = product % self.shape.tiles(self.shape.inner(self.side));
        tile * self.of_product()..(tile + 1) * self.of_product()
    }

    /// Where a lane's element of a register lies in memory, counted in elements, with `stride` from one row or column to the next.
    pub(crate) fn offset(&self, register: usize, at: usize, lane: usize, stride: u64) -> u64 {
        let (group, member) = (lane / 4, lane % 4);
        let (tile, register) = (register / self.of_product(), register % self.of_product());
        let inner = match self.shape.inner(self.side) {
            Side::A => {
                let column = (register / 2 * 4 + member) * self.packed + at;
                (16 * tile + group + 8 * (register % 2), column)
            }
            Side::B => ((register * 4 + member) * self.packed + at, 8 * tile + group),
            Side::C => {
                let first = register * self.packed + at;
                let (below, beside) = if self.shape.splits_a() {
                    (16 * tile, 0)
                } else {
                    (0, 8 * tile)
                };
                (
                    below + group + 8 * (first / 2),
                    beside + 2 * member + first % 2,
                )
            }
        };
        let (row, column) = match (inner, self.shape.is_transposed()) {
            ((column, row), true) | ((row, column), false) => (row as u64, column as u64),
        };
        if self.is_row_major {
            row * stride + column
        } else {
            column * stride + row
        }
    }

    /// The stride of a matrix without gaps.
    pub(crate) fn extent(&self) -> usize {
        let (rows, columns) = match self.side {
            Side::A => (self.shape.m, self.shape.k),
            Side::B => (self.shape.k, self.shape.n),
            Side::C => (self.shape.m, self.shape.n),
        };
        if self.is_row_major { columns } else { rows }
    }
}
