//! A piece of text that is looked for in a stream of bytes (Knuth, Morris & Pratt 1977), and the tokens that finish it.

pub struct Watch {
    pattern: &'static [u8],
    /// Longest proper prefix of `pattern[..=i]` that also ends it.
    borders: Vec<usize>,
    endings: Vec<Vec<Ending>>,
}

/// A token that finishes the pattern.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Ending {
    pub token: u32,
    /// Bytes of the token up to and with the pattern's last one.
    pub length: usize,
}

impl Watch {
    /// `texts[token]` is what a token adds to the stream.
    pub fn new(pattern: &'static str, texts: &[Vec<u8>]) -> Self {
        let pattern = pattern.as_bytes();
        let mut watch = Self { pattern, borders: borders(pattern), endings: vec![] };
        let last = pattern[pattern.len() - 1];
        let candidates: Vec<u32> =
            (0..texts.len() as u32).filter(|&token| texts[token as usize].contains(&last)).collect();
        let ending = |watch: &Self, seen, token: u32| {
            watch.found(seen, &texts[token as usize]).map(|length| Ending { token, length })
        };
        watch.endings = (0..pattern.len())
            .map(|seen| candidates.iter().filter_map(|&token| ending(&watch, seen, token)).collect())
            .collect();
        watch
    }

    pub fn len(&self) -> usize {
        self.pattern.len()
    }

    /// Tokens that finish the pattern when `seen` bytes of it are there.
    pub fn endings(&self, seen: usize) -> &[Ending] {
        &self.endings[seen]
    }

    /// Bytes of the pattern that are there after one more byte; `len()` when it is whole.
    pub fn step(&self, mut seen: usize, byte: u8) -> usize {
        if seen == self.pattern.len() {
            seen = self.borders[seen - 1];
        }
        while seen > 0 && self.pattern[seen] != byte {
            seen = self.borders[seen - 1];
        }
        seen + usize::from(self.pattern[seen] == byte)
    }

    /// As `step` over several bytes.
    pub fn after(&self, seen: usize, text: &[u8]) -> usize {
        text.iter().fold(seen, |seen, &byte| self.step(seen, byte)) % self.pattern.len()
    }

    fn found(&self, mut seen: usize, text: &[u8]) -> Option<usize> {
        for (i, &byte) in text.iter().enumerate() {
            seen = self.step(seen, byte);
            if seen == self.pattern.len() {
                return Some(i + 1);
            }
        }
        None
    }
}

fn borders(pattern: &[u8]) -> Vec<usize> {
    let mut borders = vec![0; pattern.len()];
    for i in 1..pattern.len() {
        let mut length = borders[i - 1];
        while length > 0 && pattern[length] != pattern[i] {
            length = borders[length - 1];
        }
        borders[i] = length + usize::from(pattern[length] == pattern[i]);
    }
    borders
}

#[cfg(test)]
mod tests {
    use super::*;

    fn texts(words: &[&str]) -> Vec<Vec<u8>> {
        words.iter().map(|word| word.as_bytes().to_vec()).collect()
    }

    #[test]
    fn finds_the_pattern_across_tokens_and_restarts() {
        let watch = Watch::new("aab", &texts(&[]));
        for (text, seen) in [("", 0), ("a", 1), ("aa", 2), ("aaa", 2), ("aac", 0), ("xa", 1), ("aab", 0)] {
            assert_eq!(watch.after(0, text.as_bytes()), seen, "{text}");
        }
        assert_eq!(watch.step(2, b'b'), watch.len());
    }

    #[test]
    fn knows_the_tokens_that_finish_it() {
        let watch = Watch::new("aab", &texts(&["b", "aab", "xaabx", "ab", "bb", "a"]));
        let endings = |seen| watch.endings(seen).iter().map(|e| (e.token, e.length)).collect::<Vec<_>>();
        assert_eq!(endings(0), [(1, 3), (2, 4)]);
        assert_eq!(endings(1), [(1, 3), (2, 4), (3, 2)]);
        assert_eq!(endings(2), [(0, 1), (1, 3), (2, 4), (3, 2), (4, 1)]);
    }
}
