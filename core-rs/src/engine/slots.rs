//! Values behind handles: a slot and the generation that lived in it, so that a stale handle is told from a live one.

/// Bits of the slot; with 32 bits of generation a handle fits JavaScript's 53-bit integers.
const SLOT_BITS: u32 = 20;

#[derive(Default)]
pub struct Slots<T> {
    slots: Vec<(u32, Option<T>)>,
    free: Vec<usize>,
}

impl<T> Slots<T> {
    pub const fn new() -> Self {
        Self { slots: Vec::new(), free: Vec::new() }
    }

    /// None when all slots are taken.
    pub fn insert(&mut self, value: T) -> Option<u64> {
        let slot = match self.free.pop() {
            Some(slot) => slot,
            None if self.slots.len() < 1 << SLOT_BITS => {
                self.slots.push((0, None));
                self.slots.len() - 1
            }
            None => return None,
        };
        let (generation, place) = &mut self.slots[slot];
        *generation = generation.wrapping_add(1).max(1);
        *place = Some(value);
        Some(u64::from(*generation) << SLOT_BITS | slot as u64)
    }

    pub fn get(&self, handle: u64) -> Option<&T> {
        let (generation, value) = self.slots.get(slot_of(handle))?;
        value.as_ref().filter(|_| u64::from(*generation) == handle >> SLOT_BITS)
    }

    pub fn get_mut(&mut self, handle: u64) -> Option<&mut T> {
        let (generation, value) = self.slots.get_mut(slot_of(handle))?;
        value.as_mut().filter(|_| u64::from(*generation) == handle >> SLOT_BITS)
    }

    pub fn remove(&mut self, handle: u64) -> Option<T> {
        self.get(handle)?;
        self.free.push(slot_of(handle));
        self.slots[slot_of(handle)].1.take()
    }

    pub fn retain(&mut self, keep: impl Fn(&T) -> bool) {
        for (slot, (_, place)) in self.slots.iter_mut().enumerate() {
            if place.as_ref().is_some_and(|value| !keep(value)) {
                *place = None;
                self.free.push(slot);
            }
        }
    }
}

fn slot_of(handle: u64) -> usize {
    (handle & ((1 << SLOT_BITS) - 1)) as usize
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn stale_handles_are_told_from_live_ones() {
        let mut slots = Slots::new();
        let first = slots.insert("first").unwrap();
        assert_eq!(slots.remove(first), Some("first"));
        let second = slots.insert("second").unwrap();
        assert_eq!(slot_of(first), slot_of(second));
        assert_eq!(slots.get(first), None);
        assert_eq!(slots.get_mut(first), None);
        assert_eq!(slots.remove(first), None);
        assert_eq!(slots.get(second), Some(&"second"));
        slots.retain(|value| *value != "second");
        for stale in [second, 0, u64::MAX] {
            assert_eq!(slots.get(stale), None);
        }
    }
}
