//! Copies of rows and planes: how the driver API describes them.

use super::status::Status;
use super::stubs::not_supported;
use super::transfer::Place;

/// One side of a copy of rows.
#[repr(C)]
#[derive(Clone, Copy)]
pub(crate) struct Side2 {
    x: usize,
    y: usize,
    kind: u32,
    host: u64,
    device: u64,
    array: u64,
    pitch: usize,
}

/// `CUDA_MEMCPY2D`.
#[repr(C)]
#[derive(Clone, Copy)]
pub(crate) struct Copy2 {
    from: Side2,
    to: Side2,
    width: usize,
    height: usize,
}

/// One side of a copy of planes.
#[repr(C)]
#[derive(Clone, Copy)]
pub(crate) struct Side3 {
    x: usize,
    y: usize,
    z: usize,
    level: usize,
    kind: u32,
    host: u64,
    device: u64,
    array: u64,
    reserved: u64,
    pitch: usize,
    height: usize,
}

/// `CUDA_MEMCPY3D`.
#[repr(C)]
#[derive(Clone, Copy)]
pub(crate) struct Copy3 {
    pub(super) from: Side3,
    pub(super) to: Side3,
    pub(super) width: usize,
    pub(super) height: usize,
    pub(super) depth: usize,
}

impl Side2 {
    fn deep(self) -> Side3 {
        Side3 {
            x: self.x,
            y: self.y,
            z: 0,
            level: 0,
            kind: self.kind,
            host: self.host,
            device: self.device,
            array: self.array,
            reserved: 0,
            pitch: self.pitch,
            height: 0,
        }
    }
}

impl Side3 {
    pub(super) fn place(&self) -> Result<Place, Status> {
        match self.kind {
            1 => Ok(Place::Host(self.host)),
            2 => Ok(Place::Device(self.device)),
            3 => not_supported("copying from and to arrays").map(|()| Place::Host(0)),
            4 => Ok(Place::Either(self.device)),
            _ => Err(Status::INVALID_VALUE),
        }
    }

    /// Bytes from the start of the side to a row of the copy.
    fn offset(&self, row: usize, plane: usize) -> Option<u64> {
        let rows = self.z.checked_add(plane)?.checked_mul(self.height)?;
        let rows = rows.checked_add(self.y)?.checked_add(row)?;
        let bytes = rows.checked_mul(self.pitch)?.checked_add(self.x)?;
        Some(bytes as u64)
    }

    /// Where a row of the copy is.
    fn at(&self, row: usize, plane: usize) -> Result<Place, Status> {
        let start = self.place()?;
        let place = self
            .offset(row, plane)
            .and_then(|offset| start.offset(offset));
        place.ok_or(Status::INVALID_VALUE)
    }

    fn fits(&self, width: usize, height: usize, depth: usize) -> bool {
        let row = self.x.checked_add(width);
        let column = self.y.checked_add(height);
        let rows = self.y + height > 1 || self.z + depth > 1;
        let planes = self.z + depth > 1;
        row.is_some_and(|row| !rows || row <= self.pitch)
            && column.is_some_and(|column| !planes || column <= self.height)
    }
}

impl Copy2 {
    /// The same copy, of one plane.
    pub(super) fn deep(self) -> Copy3 {
        Copy3 {
            from: self.from.deep(),
            to: self.to.deep(),
            width: self.width,
            height: self.height,
            depth: 1,
        }
    }
}

impl Copy3 {
    pub(super) fn is_empty(&self) -> bool {
        self.width == 0 || self.height == 0 || self.depth == 0
    }

    /// Turns down a copy whose rows or planes reach into the next, or that is of arrays.
    pub(super) fn check(&self) -> Result<(), Status> {
        for side in [&self.from, &self.to] {
            if !self.is_empty() && !side.fits(self.width, self.height, self.depth) {
                return Err(Status::INVALID_VALUE);
            }
            side.place()?;
        }
        Ok(())
    }

    /// Where each row goes, and where it comes from.
    pub(super) fn rows(&self) -> impl Iterator<Item = Result<(Place, Place), Status>> {
        let all = (0..self.depth).flat_map(|plane| (0..self.height).map(move |row| (row, plane)));
        all.map(|(row, plane)| Ok((self.to.at(row, plane)?, self.from.at(row, plane)?)))
    }
}
