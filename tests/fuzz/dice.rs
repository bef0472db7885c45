//! Mutation: bytes made of other bytes, by numbers that look random and follow a seed, so that a case that fails can
//! be had again.

/// A small generator that is the same everywhere (splitmix64).
pub struct Dice(pub u64);

impl Dice {
    pub fn roll(&mut self, below: usize) -> usize {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        usize::try_from((mixed ^ (mixed >> 31)) % (below as u64)).expect("below a usize")
    }

    pub fn pick<'t, T: ?Sized>(&mut self, from: &[&'t T]) -> &'t T {
        from[self.roll(from.len())]
    }
}

/// Cuts, doubles, flips, or inserts a fragment, once or several times.
pub fn mutate(dice: &mut Dice, bytes: &mut Vec<u8>, fragments: &[&str]) {
    for _ in 0..=dice.roll(3) {
        let at = dice.roll(bytes.len() + 1);
        match dice.roll(6) {
            0 if at < bytes.len() => bytes[at] ^= 1 << dice.roll(8),
            1 if at < bytes.len() => drop(bytes.remove(at)),
            2 => {
                let end = (at + dice.roll(24)).min(bytes.len());
                let copied = bytes[at..end].to_vec();
                bytes.splice(end..end, copied);
            }
            _ => {
                let fragment = dice.pick(fragments).as_bytes().to_vec();
                // Where structure is, mutations bite.
                let near = bytes[at..]
                    .iter()
                    .position(|byte| b"{},:\"\r\n;=-".contains(byte))
                    .map_or(at, |found| at + found);
                bytes.splice(near..near, fragment);
            }
        }
    }
}

/// Cuts a piece out, which undoes what earlier mutations piled up, or puts a piece of another input in.
pub fn recombine(dice: &mut Dice, bytes: &mut Vec<u8>, other: &[u8]) {
    let from = dice.roll(bytes.len() + 1);
    let until = (from + dice.roll(32)).min(bytes.len());
    let piece = if other.is_empty() || dice.roll(2) == 0 {
        &[]
    } else {
        let start = dice.roll(other.len());
        &other[start..(start + dice.roll(48)).min(other.len())]
    };
    bytes.splice(from..until, piece.iter().copied());
}

/// A number from the environment, which steers how long and from which seed.
pub fn number(name: &str, default: u64) -> u64 {
    std::env::var(name)
        .ok()
        .and_then(|value| value.parse().ok())
        .unwrap_or(default)
}

/// A fresh seed, or the one that `KEYGATE_FUZZ_SEED` names.
pub fn seed() -> u64 {
    let mut bytes = [0; 8];
    getrandom::fill(&mut bytes).expect("random bytes");
    number("KEYGATE_FUZZ_SEED", u64::from_le_bytes(bytes))
}
