//! Keys and values of live sequences, as a tree: equal prefixes are stored and computed once.
//!
//! A node holds a run of tokens; a sequence is a path of (node, tokens used of it). New tokens are *pending* until a step
//! has computed them. Nodes that no sequence uses are kept for reuse while memory lasts, oldest leaves going first.
use super::Model;
use crate::error::{Error, Result};
use crate::kernels::{CachedRows, CachedSpan, Kernels, Rotation, cached_attention, gather_rows, linear, read, write};
use candle_core::{DType, Device, Tensor};
use std::collections::BTreeMap;

pub type SequenceId = u32;
type NodeId = u32;

/// Room of a node that grows by sampling.
const GROWTH_TOKENS: usize = 64;
/// A step of at most this many pending tokens goes before longer prefills, so that decoding never waits for them.
const SHORT_TOKENS: usize = 64;

struct CacheNode {
    parent: Option<NodeId>,
    /// Absolute position of its first token.
    start: usize,
    tokens: Vec<u32>,
    /// Tokens whose keys and values are there.
    computed: usize,
    capacity: usize,
    /// Per layer: keys `[kv_heads, D, capacity]` and values `[kv_heads, capacity, D]`.
    layers: Vec<(Tensor, Tensor)>,
    sequences: usize,
    children: usize,
    last_used: u64,
}

#[derive(Clone)]
struct Path {
    nodes: Vec<(NodeId, usize)>,
    /// A row of logits is due once everything is computed.
    waiting: bool,
}

pub struct Cache {
    kv_heads: usize,
    dim: usize,
    layers: usize,
    memory_bytes_max: usize,
    sharing: bool,
    nodes: BTreeMap<NodeId, CacheNode>,
    sequences: BTreeMap<SequenceId, Path>,
    /// Node and sequence ids are never used twice, so a released or stale one is recognised.
    next_id: u32,
    clock: u64,
    bytes: usize,
}

impl Model {
    /// `sharing: false` computes every sequence by itself, for comparison.
    pub fn new_cache(&self, memory_bytes_max: usize, sharing: bool) -> Cache {
        let heads = self.config.heads;
        Cache {
            kv_heads: heads.kv_heads,
            dim: heads.dim,
            layers: self.config.layers,
            memory_bytes_max,
            sharing,
            nodes: BTreeMap::new(),
            sequences: BTreeMap::new(),
            next_id: 0,
            clock: 0,
            bytes: 0,
        }
    }

    /// Feeds up to `tokens_max` pending tokens through the model, short runs first. Returns `vocab_size` logits for each
    /// sequence whose tokens are now all computed.
    pub fn step(&self, cache: &mut Cache, tokens_max: usize) -> Result<Vec<(SequenceId, Vec<f32>)>> {
        let runs = cache.next_runs(tokens_max);
        if runs.is_empty() {
            return Ok(Vec::new());
        }
        let (mut tokens, mut positions) = (Vec::new(), Vec::new());
        for run in &runs {
            let node = &cache.nodes[&run.node];
            tokens.extend_from_slice(&node.tokens[run.from..run.from + run.len]);
            positions.extend((run.from..run.from + run.len).map(|i| (node.start + i) as u32));
        }
        let rotation = Rotation::new(&positions, &self.config.rotary_frequencies)?;
        let mut x = self.embed(&tokens)?;
        for (layer, ids) in self.layer_ids().iter().enumerate() {
            x = self
                .layer(ids, x, &rotation, &mut |q, k, v| {
                    cache.store(self.kernels, layer, &runs, k, v)?;
                    let attended =
                        cached_attention(self.kernels, q, &cache.attended_rows(layer, &runs), self.config.heads)?;
                    Ok((attended.clone(), attended))
                })?
                .0;
        }
        let ready = cache.finish(&runs);
        if ready.is_empty() {
            return Ok(Vec::new());
        }
        let rows: Vec<u32> = ready.iter().map(|(_, row)| *row as u32).collect();
        let (normed, _) = self.final_norm(&gather_rows(self.kernels, &x, &rows)?)?;
        let logits = linear(self.kernels, &normed, self.head(), None)?;
        let logits = logits.to_vec2::<f32>()?;
        Ok(ready.into_iter().map(|(sequence, _)| sequence).zip(logits).collect())
    }
}

/// Pending tokens of one node that a step computes.
struct Run {
    node: NodeId,
    from: usize,
    len: usize,
    /// First row in the step's batch.
    row: usize,
}

impl Cache {
    /// Opens a sequence whose tokens are all pending, save those that a live or kept one already holds (the last token
    /// always stays pending, so that the sequence gets its logits).
    pub fn open(&mut self, tokens: &[u32]) -> Result<SequenceId> {
        if tokens.is_empty() {
            return Err(Error::BadArgument("a sequence needs at least one token".into()));
        }
        let mut path = Path { nodes: Vec::new(), waiting: true };
        let mut shared = 0;
        while self.sharing && shared < tokens.len() - 1 {
            let parent = path.nodes.last().map(|(id, _)| *id);
            let Some((id, matched)) = self.best_child(parent, shared, &tokens[shared..tokens.len() - 1]) else { break };
            path.nodes.push((id, matched));
            shared += matched;
        }
        for (id, _) in &path.nodes {
            self.node_mut(*id).sequences += 1;
        }
        let parent = path.nodes.last().map(|(id, _)| *id);
        let leaf = self.add_node(parent, shared, &tokens[shared..], tokens.len() - shared)?;
        path.nodes.push((leaf, tokens.len() - shared));
        let id = self.fresh_id();
        self.sequences.insert(id, path);
        self.evict();
        Ok(id)
    }

    /// Adds pending tokens to a sequence.
    pub fn append(&mut self, sequence: SequenceId, tokens: &[u32]) -> Result<()> {
        if tokens.is_empty() {
            return Err(Error::BadArgument("nothing to append".into()));
        }
        let (leaf, used) = *self.path(sequence)?.nodes.last().expect("a path is never empty");
        let node = &self.nodes[&leaf];
        let fits =
            node.sequences == 1 && used == node.tokens.len() && node.tokens.len() + tokens.len() <= node.capacity;
        if fits {
            let node = self.node_mut(leaf);
            node.tokens.extend_from_slice(tokens);
        } else {
            let start = node.start + used;
            let room = if tokens.len() < GROWTH_TOKENS { GROWTH_TOKENS } else { tokens.len() };
            let child = self.add_node(Some(leaf), start, tokens, room)?;
            self.path_mut(sequence)?.nodes.push((child, 0));
        }
        let path = self.path_mut(sequence)?;
        path.nodes.last_mut().expect("a path is never empty").1 += tokens.len();
        path.waiting = true;
        self.evict();
        Ok(())
    }

    /// Tokens that wait to be computed.
    pub fn pending(&self) -> usize {
        self.nodes.values().map(|node| node.tokens.len() - node.computed).sum()
    }

    pub fn release(&mut self, sequence: SequenceId) {
        if let Some(path) = self.sequences.remove(&sequence) {
            for (id, _) in path.nodes {
                self.node_mut(id).sequences -= 1;
            }
            self.drop_uncomputed();
            self.evict();
        }
    }

    /// After a weight change: every sequence becomes stale and nothing is reused.
    pub fn clear(&mut self) {
        self.nodes.clear();
        self.sequences.clear();
        self.bytes = 0;
    }

    /// Memory of keys and values.
    pub fn bytes(&self) -> usize {
        self.bytes
    }

    fn path(&self, sequence: SequenceId) -> Result<&Path> {
        self.sequences.get(&sequence).ok_or(Error::BadHandle { what: "sequence", id: sequence as u64 })
    }

    fn path_mut(&mut self, sequence: SequenceId) -> Result<&mut Path> {
        self.sequences.get_mut(&sequence).ok_or(Error::BadHandle { what: "sequence", id: sequence as u64 })
    }

    fn node_mut(&mut self, id: NodeId) -> &mut CacheNode {
        self.clock += 1;
        let node = self.nodes.get_mut(&id).expect("paths name live nodes");
        node.last_used = self.clock;
        node
    }

    fn fresh_id(&mut self) -> u32 {
        self.next_id += 1;
        self.next_id
    }

    /// The child of `parent` at this position that shares most tokens, and how many.
    fn best_child(&self, parent: Option<NodeId>, start: usize, tokens: &[u32]) -> Option<(NodeId, usize)> {
        self.nodes
            .iter()
            .filter(|(_, node)| node.parent == parent && node.start == start)
            .map(|(id, node)| (*id, node.tokens.iter().zip(tokens).take_while(|(a, b)| a == b).count()))
            .filter(|(_, matched)| *matched > 0)
            .max_by_key(|(id, matched)| (*matched, std::cmp::Reverse(*id)))
    }

    fn add_node(&mut self, parent: Option<NodeId>, start: usize, tokens: &[u32], capacity: usize) -> Result<NodeId> {
        let id = self.fresh_id();
        let layers = (0..self.layers)
            .map(|_| {
                let keys = Tensor::zeros((self.kv_heads, self.dim, capacity), DType::F32, &Device::Cpu)?;
                Ok((keys, Tensor::zeros((self.kv_heads, capacity, self.dim), DType::F32, &Device::Cpu)?))
            })
            .collect::<Result<_>>()?;
        self.bytes += self.node_bytes(capacity);
        if let Some(parent) = parent {
            self.node_mut(parent).children += 1;
        }
        self.clock += 1;
        let node = CacheNode {
            parent,
            start,
            tokens: tokens.to_vec(),
            computed: 0,
            capacity,
            layers,
            sequences: 1,
            children: 0,
            last_used: self.clock,
        };
        self.nodes.insert(id, node);
        Ok(id)
    }

    fn node_bytes(&self, capacity: usize) -> usize {
        2 * self.layers * self.kv_heads * self.dim * capacity * 4
    }

    fn remove_node(&mut self, id: NodeId) {
        let node = self.nodes.remove(&id).expect("a node is removed once");
        self.bytes -= self.node_bytes(node.capacity);
        if let Some(parent) = node.parent {
            self.node_mut(parent).children -= 1;
        }
    }

    /// Unused leaves go, least recently used first, until the budget holds. Live sequences are never touched.
    fn evict(&mut self) {
        while self.bytes > self.memory_bytes_max {
            let unused = self.nodes.iter().filter(|(_, node)| node.sequences == 0 && node.children == 0);
            let Some((&id, _)) = unused.min_by_key(|(_, node)| node.last_used) else { return };
            self.remove_node(id);
        }
    }

    /// Nodes that a cancelled sequence left unfinished: nobody would ever compute the rest.
    fn drop_uncomputed(&mut self) {
        while let Some((&id, _)) = self
            .nodes
            .iter()
            .find(|(_, node)| node.sequences == 0 && node.children == 0 && node.computed < node.tokens.len())
        {
            self.remove_node(id);
        }
    }

    /// What the next step computes: short runs whose ancestors are there, then the oldest.
    fn next_runs(&self, tokens_max: usize) -> Vec<Run> {
        let pending = |short: bool| {
            self.nodes.iter().filter(move |(_, node)| {
                let missing = node.tokens.len() - node.computed;
                missing > 0 && (missing <= SHORT_TOKENS) == short
            })
        };
        let mut runs: Vec<Run> = Vec::new();
        let mut planned: BTreeMap<NodeId, usize> = BTreeMap::new();
        let mut rows = 0;
        for (id, node) in pending(true).chain(pending(false)) {
            let len = (node.tokens.len() - node.computed).min(tokens_max - rows);
            if len > 0 && self.ancestors_reach(node, &planned) {
                runs.push(Run { node: *id, from: node.computed, len, row: rows });
                planned.insert(*id, node.computed + len);
                rows += len;
            }
        }
        runs
    }

    /// Are all keys that this node's tokens see there, or planned before it in this step?
    fn ancestors_reach(&self, node: &CacheNode, planned: &BTreeMap<NodeId, usize>) -> bool {
        let (mut child_start, mut parent) = (node.start, node.parent);
        while let Some(id) = parent {
            let ancestor = &self.nodes[&id];
            let reached = planned.get(&id).copied().unwrap_or(ancestor.computed);
            if ancestor.start + reached < child_start {
                return false;
            }
            (child_start, parent) = (ancestor.start, ancestor.parent);
        }
        true
    }

    /// Writes a step's keys and values `[N, kv_heads · D]` into the nodes.
    fn store(&self, kernels: Kernels, layer: usize, runs: &[Run], k: &Tensor, v: &Tensor) -> Result<()> {
        let (heads, dim) = (self.kv_heads, self.dim);
        for run in runs {
            let node = &self.nodes[&run.node];
            let (keys, values) = &node.layers[layer];
            if kernels == Kernels::Plain {
                let rows = |x: &Tensor| Ok::<_, Error>(x.narrow(0, run.row, run.len)?.reshape((run.len, heads, dim))?);
                keys.slice_set(&rows(k)?.permute((1, 2, 0))?.contiguous()?, 2, run.from)?;
                values.slice_set(&rows(v)?.transpose(0, 1)?.contiguous()?, 1, run.from)?;
                continue;
            }
            let (k, v, width) = (read(k)?, read(v)?, heads * dim);
            write(keys, |keys| {
                for i in 0..run.len {
                    for (c, value) in k[(run.row + i) * width..][..width].iter().enumerate() {
                        keys[c * node.capacity + run.from + i] = *value;
                    }
                }
            })?;
            write(values, |values| {
                for i in 0..run.len {
                    for (head, row) in v[(run.row + i) * width..][..width].chunks_exact(dim).enumerate() {
                        values[(head * node.capacity + run.from + i) * dim..][..dim].copy_from_slice(row);
                    }
                }
            })?;
        }
        Ok(())
    }

    fn attended_rows(&self, layer: usize, runs: &[Run]) -> Vec<CachedRows> {
        runs.iter()
            .map(|run| {
                let mut spans = Vec::new();
                let (mut id, mut len) = (run.node, run.from + run.len);
                loop {
                    let node = &self.nodes[&id];
                    let (keys, values) = node.layers[layer].clone();
                    spans.push(CachedSpan { keys, values, len });
                    let Some(parent) = node.parent else { break };
                    len = node.start - self.nodes[&parent].start;
                    id = parent;
                }
                spans.reverse();
                CachedRows { start: run.row, len: run.len, spans }
            })
            .collect()
    }

    /// Marks the runs computed; returns the waiting sequences that are complete, with the row of their last token.
    fn finish(&mut self, runs: &[Run]) -> Vec<(SequenceId, usize)> {
        for run in runs {
            self.node_mut(run.node).computed += run.len;
        }
        let last_rows: BTreeMap<NodeId, &Run> = runs.iter().map(|run| (run.node, run)).collect();
        let nodes = &self.nodes;
        let mut ready = Vec::new();
        for (sequence, path) in self.sequences.iter_mut().filter(|(_, path)| path.waiting) {
            let (leaf, used) = *path.nodes.last().expect("a path is never empty");
            if let Some(run) = last_rows.get(&leaf).filter(|run| nodes[&leaf].computed >= used && run.from < used) {
                path.waiting = false;
                ready.push((*sequence, run.row + used - 1 - run.from));
            }
        }
        ready
    }
}
