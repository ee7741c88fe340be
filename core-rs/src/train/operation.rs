//! What can be done to weights and vectors; `WeightOp` in src/core/policy.ts says what each means.
use super::vectors::{EFFECTIVE, WEIGHTS};
use serde::{Deserialize, Deserializer};
use std::path::PathBuf;

#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Term {
    pub vector: String,
    pub factor: f64,
}

/// Externally tagged: serde buffers internally tagged content, which breaks numbers under `arbitrary_precision`.
#[derive(Clone, Debug, Deserialize)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
pub enum WeightOp {
    ResetOptimizer {},
    Snapshot {
        name: String,
    },
    Drop {
        name: String,
    },
    Combine {
        into: String,
        terms: Vec<Term>,
    },
    AddProduct {
        into: String,
        a: String,
        b: String,
        factor: f64,
    },
    Dot {
        a: String,
        b: String,
    },
    Consolidate {
        importance: String,
        anchor: String,
        add: String,
    },
    AddQuadraticPenalty {
        importance: String,
        anchor: String,
        strength: f64,
    },
    ProjectGradient {
        reference: String,
    },
    AddPathImportance {
        into: String,
        path: String,
        start: String,
        damping: f64,
    },
    MergeTies {
        into: String,
        vectors: Vec<String>,
        density: f64,
    },
    MergeDare {
        into: String,
        vectors: Vec<String>,
        drop_rate: f64,
        #[serde(deserialize_with = "decimal")]
        seed: u64,
    },
    MergeFisher {
        into: String,
        vectors: Vec<String>,
        importances: Vec<String>,
    },
    AddAdapter {
        name: String,
        rank: usize,
        alpha: f64,
        target_modules: Vec<String>,
        gates: bool,
        #[serde(deserialize_with = "decimal")]
        seed: u64,
    },
    LoadAdapter {
        name: String,
        directory: PathBuf,
    },
    ActivateAdapter {
        column: String,
    },
    AddOrthogonalPenalty {
        strength: f64,
    },
    MergeAdapters {},
}

impl WeightOp {
    /// Does the policy compute something else afterwards?
    pub fn moves_weights(&self) -> bool {
        let writes = |name: &str| name == WEIGHTS || name == EFFECTIVE;
        match self {
            WeightOp::Combine { into, .. }
            | WeightOp::AddProduct { into, .. }
            | WeightOp::AddPathImportance { into, .. }
            | WeightOp::MergeTies { into, .. }
            | WeightOp::MergeDare { into, .. }
            | WeightOp::MergeFisher { into, .. } => writes(into),
            WeightOp::AddAdapter { .. }
            | WeightOp::LoadAdapter { .. }
            | WeightOp::ActivateAdapter { .. }
            | WeightOp::MergeAdapters {} => true,
            _ => false,
        }
    }
}

/// JSON of JavaScript has no 64-bit integers, so seeds come as decimal text.
fn decimal<'de, D: Deserializer<'de>>(deserializer: D) -> Result<u64, D::Error> {
    String::deserialize(deserializer)?.parse().map_err(serde::de::Error::custom)
}
