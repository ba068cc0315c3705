//! Handles: what programs hold of the driver's objects.
//!
//! A handle is never an address, so a wrong one is looked up in vain instead of being followed, and it
//! is never used again, so one that was destroyed stays wrong.

use std::collections::HashMap;
use std::marker::PhantomData;
use std::sync::atomic::{AtomicU64, Ordering};

use super::status::Status;

/// An object with handles.
pub(super) trait Object {
    /// Part of the handle, so that a handle of another kind of object is never taken for this one.
    const TAG: u64;
    /// What a call with a wrong handle returns.
    const WRONG: Status;
}

/// A handle to a `T`, as wide as the pointer type that stands for it in C.
#[repr(transparent)]
pub(crate) struct Handle<T>(u64, PhantomData<fn() -> T>);

impl<T> Clone for Handle<T> {
    fn clone(&self) -> Self {
        *self
    }
}
impl<T> Copy for Handle<T> {}

impl<T> PartialEq for Handle<T> {
    fn eq(&self, other: &Self) -> bool {
        self.0 == other.0
    }
}
impl<T> Eq for Handle<T> {}

impl<T> std::hash::Hash for Handle<T> {
    fn hash<H: std::hash::Hasher>(&self, state: &mut H) {
        self.0.hash(state);
    }
}

impl<T> Handle<T> {
    pub(super) const NULL: Self = Self(0, PhantomData);

    pub(super) fn is_null(self) -> bool {
        self.0 == 0
    }

    /// The number behind the handle; some small ones have meanings of their own.
    pub(super) fn number(self) -> u64 {
        self.0
    }

    /// Interfaces that take either of two kinds of object pass one under the type of the other.
    pub(super) fn cast<U>(self) -> Handle<U> {
        Handle(self.0, PhantomData)
    }
}

impl<T: Object> Handle<T> {
    /// A handle nobody has had before. No address on a 64-bit machine has these upper bits; the highest is clear for programs
    /// that take it for a signed number.
    fn fresh() -> Self {
        static SERIAL: AtomicU64 = AtomicU64::new(1);
        let serial = SERIAL.fetch_add(1, Ordering::Relaxed);
        Self(
            0x4051_0000_0000_0000 | T::TAG << 40 | (serial & 0xff_ffff_ffff),
            PhantomData,
        )
    }
}

/// The living objects of one kind.
pub(super) struct Table<T>(HashMap<Handle<T>, T>);

impl<T: Object> Table<T> {
    pub(super) fn new() -> Self {
        Self(HashMap::new())
    }

    pub(super) fn insert(&mut self, object: T) -> Handle<T> {
        let handle = Handle::fresh();
        self.0.insert(handle, object);
        handle
    }

    pub(super) fn get(&self, handle: Handle<T>) -> Result<&T, Status> {
        self.0.get(&handle).ok_or(T::WRONG)
    }

    pub(super) fn get_mut(&mut self, handle: Handle<T>) -> Result<&mut T, Status> {
        self.0.get_mut(&handle).ok_or(T::WRONG)
    }

    pub(super) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    pub(super) fn contains(&self, handle: Handle<T>) -> bool {
        self.0.contains_key(&handle)
    }

    pub(super) fn remove(&mut self, handle: Handle<T>) -> Result<T, Status> {
        self.0.remove(&handle).ok_or(T::WRONG)
    }

    pub(super) fn retain(&mut self, mut keep: impl FnMut(&T) -> bool) {
        self.0.retain(|_, object| keep(object));
    }

    /// Removes the objects that `wanted` picks.
    pub(super) fn extract(&mut self, mut wanted: impl FnMut(&T) -> bool) -> Vec<T> {
        let picked = self.0.extract_if(|_, object| wanted(object));
        picked.map(|(_, object)| object).collect()
    }

    pub(super) fn iter_mut(&mut self) -> impl Iterator<Item = &mut T> {
        self.0.values_mut()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    struct Cup;
    impl Object for Cup {
        const TAG: u64 = 1;
        const WRONG: Status = Status::INVALID_HANDLE;
    }
    struct Bowl;
    impl Object for Bowl {
        const TAG: u64 = 2;
        const WRONG: Status = Status::INVALID_CONTEXT;
    }

    #[test]
    fn wrong_handles_are_told_apart() {
        let (mut cups, mut bowls) = (Table::new(), Table::new());
        let cup = cups.insert(Cup);
        let bowl = bowls.insert(Bowl);
        assert!(cups.get(cup).is_ok());
        assert_eq!(cups.get(bowl.cast()).err(), Some(Status::INVALID_HANDLE));
        assert!(cups.remove(cup).is_ok());
        assert_eq!(cups.remove(cup).err(), Some(Status::INVALID_HANDLE));
        assert_eq!(bowls.get(Handle::NULL).err(), Some(Status::INVALID_CONTEXT));
        assert_ne!(cups.insert(Cup).number(), cup.number());
    }
}
