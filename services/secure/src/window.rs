//! Which datagrams have been seen (RFC 4303, section 3.4.3, and RFC 6479).

/// Numbers that a datagram may be behind the newest one.
pub(crate) const WIDTH: u32 = 1024;
const WORDS: usize = WIDTH as usize / 64 + 1;

/// The newest number, and a bit for each of those before it.
#[derive(Clone)]
pub(crate) struct Window {
    /// Behind the newest number that was seen.
    next: u64,
    bits: [u64; WORDS],
}

impl Window {
    pub(crate) const fn new() -> Self {
        Self { next: 0, bits: [0; WORDS] }
    }

    /// Whether `number` is new. It is seen from now on.
    pub(crate) fn see(&mut self, number: u32) -> bool {
        let number = u64::from(number);
        if number >= self.next {
            // Words that begin to stand for new numbers are empty.
            let from = self.next.div_ceil(64);
            for word in (from..=number / 64).take(WORDS) {
                self.bits[word as usize % WORDS] = 0;
            }
            if number / 64 >= from + WORDS as u64 {
                self.bits = [0; WORDS];
            }
            self.next = number + 1;
        } else if self.next - number > u64::from(WIDTH) {
            return false;
        }
        let (word, bit) = ((number / 64) as usize % WORDS, 1 << (number % 64));
        let new = self.bits[word] & bit == 0;
        self.bits[word] |= bit;
        new
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::HashSet;

    #[test]
    fn each_number_is_new_once_and_never_when_it_is_too_old() {
        let mut random = 1u64;
        let mut next = move || {
            random = random.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            random >> 33
        };
        for _ in 0..50 {
            let (mut window, mut seen, mut newest) = (Window::new(), HashSet::new(), 0u64);
            let mut at = next() % 5000;
            for _ in 0..5000 {
                at = match next() % 20 {
                    0 => at + next() % 3000,
                    1..=9 => at.saturating_sub(next() % 1500),
                    _ => at + 1 + next() % 3,
                };
                let fresh = !seen.contains(&at) && (seen.is_empty() || at + u64::from(WIDTH) > newest);
                assert_eq!(window.see(at as u32), fresh, "{at}, newest {newest}");
                if fresh {
                    seen.insert(at);
                    newest = newest.max(at);
                }
            }
        }
    }
}
