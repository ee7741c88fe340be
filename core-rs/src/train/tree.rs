//! A batch as a tree: equal prefixes of its sequences become one segment, computed once, forward and backward. The tree is
//! cut into parts: a part without children is computed forth and back at once; one with children (a trunk) is computed
//! forward, then its children see its keys, then it goes back. So memory is bounded by one part and the trunks above it.
use crate::kernels::Node;
use crate::model::RowsOf;

/// Rows of a pass: segments in depth-first order, their tokens laid end to end. A node's places count keys: first those of
/// the trunks above, root first, then the part's own rows.
#[derive(Default, Debug)]
pub struct Rows {
    pub tokens_n: Vec<u32>,
    pub positions_n: Vec<u32>,
    pub nodes: Vec<Node>,
}

impl Rows {
    pub fn view(&self) -> RowsOf<'_> {
        RowsOf { tokens_n: &self.tokens_n, positions_n: &self.positions_n, nodes: &self.nodes }
    }
}

#[derive(Default, Debug)]
pub struct Part {
    pub rows: Rows,
    /// Keys of the trunks above.
    pub before: usize,
    /// Parts that see this one's keys.
    pub children: Vec<usize>,
}

/// Where tokens of a sequence lie: rows `start..start + len` of a part.
#[derive(Clone, Copy, Default, Debug)]
pub struct Stretch {
    pub part: usize,
    pub start: usize,
    pub len: usize,
}

#[derive(Default)]
pub struct TokenTree {
    pub parts: Vec<Part>,
    /// Parts without a trunk.
    pub roots: Vec<usize>,
    /// Per sequence, the stretches of its path.
    paths: Vec<Vec<Stretch>>,
}

impl TokenTree {
    /// `sharing: false` lays out every sequence by itself, for comparison. Subtrees of at most `part_rows` stay whole and
    /// share a part.
    pub fn new(tokens_n: &[u32], offsets: &[u32], sharing: bool, part_rows: usize) -> Self {
        let mut trie = Trie::default();
        let ends: Vec<usize> =
            offsets.windows(2).map(|w| trie.insert(&tokens_n[w[0] as usize..w[1] as usize], sharing)).collect();
        trie.lay_out(&ends, part_rows)
    }

    /// The part and row of each token of a sequence, in order.
    pub fn rows(&self, sequence: usize) -> impl Iterator<Item = (usize, usize)> + '_ {
        self.paths[sequence].iter().flat_map(|s| (s.start..s.start + s.len).map(|row| (s.part, row)))
    }

    pub fn computed_rows(&self) -> usize {
        self.parts.iter().map(|part| part.rows.tokens_n.len()).sum()
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

    fn lay_out(&self, ends: &[usize], part_rows: usize) -> TokenTree {
        let roots: Vec<usize> = (0..self.segments.len()).filter(|i| self.segments[*i].parent.is_none()).collect();
        let mut layout = Layout {
            trie: self,
            part_rows,
            sizes: self.subtree_sizes(),
            tree: TokenTree::default(),
            place: vec![Stretch::default(); self.segments.len()],
        };
        layout.tree.roots = layout.siblings(&roots, 0, &[]);
        let Layout { mut tree, place, .. } = layout;
        tree.paths = ends.iter().map(|end| self.path(*end).into_iter().map(|i| place[i]).collect()).collect();
        tree
    }

    /// Tokens of each segment and of all below it.
    fn subtree_sizes(&self) -> Vec<usize> {
        let mut sizes: Vec<usize> = self.segments.iter().map(|segment| segment.tokens.len()).collect();
        let mut order: Vec<usize> = (0..self.segments.len()).filter(|i| self.segments[*i].parent.is_none()).collect();
        let mut at = 0;
        while at < order.len() {
            order.extend(&self.segments[order[at]].children);
            at += 1;
        }
        for id in order.into_iter().rev() {
            if let Some(parent) = self.segments[id].parent {
                sizes[parent] += sizes[id];
            }
        }
        sizes
    }
}

/// Cuts the trie into parts.
struct Layout<'a> {
    trie: &'a Trie<'a>,
    part_rows: usize,
    sizes: Vec<usize>,
    tree: TokenTree,
    place: Vec<Stretch>,
}

impl Layout<'_> {
    /// Lays out subtrees that hang on the same trunk; `above` are the places of its segments among the keys.
    fn siblings(&mut self, segments: &[usize], before: usize, above: &[(usize, usize)]) -> Vec<usize> {
        let mut parts = Vec::new();
        let mut open: Option<usize> = None;
        for id in segments {
            if self.sizes[*id] > self.part_rows && !self.trie.segments[*id].children.is_empty() {
                open = None;
                parts.push(self.trunk(*id, before, above));
                continue;
            }
            let fits = |part: &usize| self.tree.parts[*part].rows.tokens_n.len() + self.sizes[*id] <= self.part_rows;
            let part = match open.filter(fits) {
                Some(part) => part,
                None => {
                    parts.push(self.new_part(before));
                    self.tree.parts.len() - 1
                }
            };
            self.subtree(*id, part, above);
            open = Some(part);
        }
        parts
    }

    fn new_part(&mut self, before: usize) -> usize {
        self.tree.parts.push(Part { before, ..Part::default() });
        self.tree.parts.len() - 1
    }

    fn trunk(&mut self, id: usize, before: usize, above: &[(usize, usize)]) -> usize {
        let part = self.new_part(before);
        let own = self.segment(id, part, above);
        let above: Vec<(usize, usize)> = above.iter().copied().chain(own).collect();
        let len = self.tree.parts[part].rows.tokens_n.len();
        let children = self.siblings(&self.trie.segments[id].children, before + len, &above);
        self.tree.parts[part].children = children;
        part
    }

    /// A whole subtree into one part.
    fn subtree(&mut self, id: usize, part: usize, above: &[(usize, usize)]) {
        let mut stack = vec![(id, above.to_vec())];
        while let Some((id, mut above)) = stack.pop() {
            above.extend(self.segment(id, part, &above));
            stack.extend(self.trie.segments[id].children.iter().rev().map(|child| (*child, above.clone())));
        }
    }

    /// One segment's tokens as a node of a part; its place among the keys, unless it is empty.
    fn segment(&mut self, id: usize, part: usize, above: &[(usize, usize)]) -> Option<(usize, usize)> {
        let tokens = self.trie.segments[id].tokens;
        let Part { rows, before, .. } = &mut self.tree.parts[part];
        let (row, len) = (rows.tokens_n.len(), tokens.len());
        self.place[id] = Stretch { part, start: row, len };
        if len == 0 {
            return None;
        }
        let depth: usize = above.iter().map(|(_, len)| len).sum();
        rows.positions_n.extend((depth..depth + len).map(|p| p as u32));
        rows.tokens_n.extend_from_slice(tokens);
        rows.nodes.push(Node { start: *before + row, len, ancestors: above.to_vec() });
        Some((*before + row, len))
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
        for (sharing, part_rows, rows, parts) in [
            (true, 100, 8, 1),
            (true, 4, 8, 4),
            (true, 1, 8, 7),
            (false, 100, tokens.len(), 1),
            (false, 5, tokens.len(), 5),
        ] {
            let tree = TokenTree::new(&tokens, &offsets, sharing, part_rows);
            assert_eq!(tree.computed_rows(), rows);
            assert_eq!(tree.parts.len(), parts, "sharing {sharing}, parts of {part_rows}");
            for (i, sequence) in sequences.iter().enumerate() {
                let read: Vec<u32> = tree.rows(i).map(|(part, row)| tree.parts[part].rows.tokens_n[row]).collect();
                assert_eq!(read, *sequence);
                let positions: Vec<u32> =
                    tree.rows(i).map(|(part, row)| tree.parts[part].rows.positions_n[row]).collect();
                assert_eq!(positions, (0..sequence.len() as u32).collect::<Vec<_>>());
            }
            for part in &tree.parts {
                for node in &part.rows.nodes {
                    let depth: usize = node.ancestors.iter().map(|(_, len)| len).sum();
                    assert_eq!(part.rows.positions_n[node.start - part.before] as usize, depth);
                }
            }
        }
    }
}
