//! A batch as a tree: equal prefixes of its sequences become one segment, computed once, forward and backward.
use crate::kernels::Node;

/// Segments in depth-first order, their tokens laid end to end as the rows of the pass.
pub struct TokenTree {
    pub nodes: Vec<Node>,
    pub tokens_n: Vec<u32>,
    pub positions_n: Vec<u32>,
    /// Per sequence: (first row, tokens) of each segment of its path.
    paths: Vec<Vec<(usize, usize)>>,
}

impl TokenTree {
    /// `sharing: false` lays out every sequence by itself, for comparison.
    pub fn new(tokens_n: &[u32], offsets: &[u32], sharing: bool) -> Self {
        let mut trie = Trie::default();
        let ends: Vec<usize> =
            offsets.windows(2).map(|w| trie.insert(&tokens_n[w[0] as usize..w[1] as usize], sharing)).collect();
        trie.lay_out(&ends)
    }

    /// The row of each token of a sequence, in order.
    pub fn rows(&self, sequence: usize) -> impl Iterator<Item = usize> + '_ {
        self.paths[sequence].iter().flat_map(|(start, len)| *start..start + len)
    }
}

#[derive(Default)]
struct Trie<'a> {
    segments: Vec<Segment<'a>>,
}

struct Segment<'a> {
    tokens: &'a [u32],
    parent: Option<usize>,
    children: Vec<usize>,
}

impl<'a> Trie<'a> {
    /// Adds a sequence; returns the segment it ends in.
    fn insert(&mut self, tokens: &'a [u32], sharing: bool) -> usize {
        let (parent, rest) = if sharing { self.descend(tokens) } else { (None, tokens) };
        match parent {
            Some(end) if rest.is_empty() => end,
            _ => self.add(Segment { tokens: rest, parent, children: Vec::new() }),
        }
    }

    /// Follows the segments that spell `tokens`, splitting the last where they part; what is left has no segment yet.
    fn descend(&mut self, mut tokens: &'a [u32]) -> (Option<usize>, &'a [u32]) {
        let mut parent = None;
        while let Some(child) = self.child_starting_with(parent, tokens.first()) {
            let shared = self.segments[child].tokens.iter().zip(tokens).take_while(|(a, b)| a == b).count();
            let whole = shared == self.segments[child].tokens.len();
            parent = Some(if whole { child } else { self.split(child, shared) });
            tokens = &tokens[shared..];
        }
        (parent, tokens)
    }

    fn child_starting_with(&self, parent: Option<usize>, first: Option<&u32>) -> Option<usize> {
        let starts = |&i: &usize| self.segments[i].tokens.first() == first && first.is_some();
        match parent {
            Some(parent) => self.segments[parent].children.iter().copied().find(starts),
            None => (0..self.segments.len()).filter(|i| self.segments[*i].parent.is_none()).find(starts),
        }
    }

    fn add(&mut self, segment: Segment<'a>) -> usize {
        let id = self.segments.len();
        if let Some(parent) = segment.parent {
            self.segments[parent].children.push(id);
        }
        self.segments.push(segment);
        id
    }

    /// Puts the first `at` tokens of a segment into a new parent of it, which is returned; the segment, its children and the
    /// sequences that end in it stay as they are.
    fn split(&mut self, id: usize, at: usize) -> usize {
        let (head, tail) = self.segments[id].tokens.split_at(at);
        let parent = self.segments[id].parent;
        let new = self.segments.len();
        if let Some(parent) = parent {
            self.segments[parent].children.iter_mut().filter(|child| **child == id).for_each(|child| *child = new);
        }
        self.segments.push(Segment { tokens: head, parent, children: vec![id] });
        self.segments[id].tokens = tail;
        self.segments[id].parent = Some(new);
        new
    }

    /// The segments from the root to this one.
    fn path(&self, end: usize) -> Vec<usize> {
        let mut path: Vec<usize> = std::iter::successors(Some(end), |i| self.segments[*i].parent).collect();
        path.reverse();
        path
    }

    fn lay_out(&self, ends: &[usize]) -> TokenTree {
        let mut tree =
            TokenTree { nodes: Vec::new(), tokens_n: Vec::new(), positions_n: Vec::new(), paths: Vec::new() };
        let mut place = vec![(0, 0); self.segments.len()];
        let mut stack: Vec<usize> =
            (0..self.segments.len()).filter(|i| self.segments[*i].parent.is_none()).rev().collect();
        while let Some(id) = stack.pop() {
            let segment = &self.segments[id];
            place[id] = (tree.tokens_n.len(), segment.tokens.len());
            let mut ancestors: Vec<(usize, usize)> = self.path(id).into_iter().map(|i| place[i]).collect();
            let (start, len) = ancestors.pop().expect("a path ends in its segment");
            let depth: usize = ancestors.iter().map(|(_, len)| len).sum();
            tree.positions_n.extend((depth..depth + len).map(|p| p as u32));
            tree.tokens_n.extend_from_slice(segment.tokens);
            if len > 0 {
                tree.nodes.push(Node { start, len, ancestors });
            }
            stack.extend(segment.children.iter().rev());
        }
        tree.paths = ends.iter().map(|end| self.path(*end).into_iter().map(|i| place[i]).collect()).collect();
        tree
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn equal_prefixes_become_one_segment_and_every_sequence_reads_back() {
        let sequences: [&[u32]; 6] = [&[1, 2, 3, 4], &[1, 2, 3, 5, 6], &[1, 2], &[9], &[1, 2, 3, 4], &[1, 2, 3, 5, 7]];
        let tokens = sequences.concat();
        let offsets: Vec<u32> = std::iter::once(0)
            .chain(sequences.iter().scan(0, |end, s| {
                *end += s.len() as u32;
                Some(*end)
            }))
            .collect();
        for (sharing, rows) in [(true, 8), (false, tokens.len())] {
            let tree = TokenTree::new(&tokens, &offsets, sharing);
            assert_eq!(tree.tokens_n.len(), rows);
            for (i, sequence) in sequences.iter().enumerate() {
                let read: Vec<u32> = tree.rows(i).map(|row| tree.tokens_n[row]).collect();
                assert_eq!(read, *sequence);
                let positions: Vec<u32> = tree.rows(i).map(|row| tree.positions_n[row]).collect();
                assert_eq!(positions, (0..sequence.len() as u32).collect::<Vec<_>>());
            }
        }
    }
}
