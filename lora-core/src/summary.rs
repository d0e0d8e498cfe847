//! What a LoRA file is, told.

use std::collections::{BTreeMap, BTreeSet};

use burn::tensor::DType;

use crate::{Component, Hashes, Lora, Spelling};

/// What a LoRA holds, for people and scripts.
#[derive(Clone, Debug)]
pub struct Summary {
    /// The spellings of its keys.
    pub spellings: BTreeSet<Spelling>,
    /// The number types of its factors, such as `F16`.
    pub dtypes: BTreeSet<String>,
    /// The components that it changes.
    pub components: BTreeMap<Component, ComponentSummary>,
    /// The number of values in all factors.
    pub parameters: usize,
    /// The file's hashes; none if it was made in memory.
    pub hashes: Option<Hashes>,
    /// The file's metadata.
    pub metadata: BTreeMap<String, String>,
}

/// What a LoRA holds for one component.
#[derive(Clone, Debug, Default)]
pub struct ComponentSummary {
    /// The number of modules.
    pub modules: usize,
    /// How many of them are convolutions, 1×1 ones with four axes among them.
    pub convolutions: usize,
    /// How many modules have each rank.
    pub ranks: BTreeMap<usize, usize>,
    /// Each alpha with how many modules have it, ascending. A file without alphas has each module's rank.
    pub alphas: Vec<(f64, usize)>,
}

impl Lora {
    /// What this LoRA holds.
    pub fn summary(&self) -> Summary {
        let mut components: BTreeMap<Component, ComponentSummary> = BTreeMap::new();
        for ((component, _), pair) in &self.pairs {
            let own = components.entry(*component).or_default();
            own.modules += 1;
            own.convolutions += usize::from(pair.down_shape.len() == 4);
            *own.ranks.entry(pair.rank()).or_default() += 1;
            match own
                .alphas
                .iter_mut()
                .find(|(alpha, _)| *alpha == pair.alpha)
            {
                Some((_, count)) => *count += 1,
                None => own.alphas.push((pair.alpha, 1)),
            }
        }
        for own in components.values_mut() {
            own.alphas.sort_by(|a, b| a.0.total_cmp(&b.0));
        }
        Summary {
            spellings: self.pairs.values().map(|pair| pair.spelling).collect(),
            dtypes: self
                .pairs
                .values()
                .map(|pair| dtype_name(pair.dtype))
                .collect(),
            components,
            parameters: self
                .pairs
                .values()
                .map(|pair| pair.down.len() + pair.up.len())
                .sum(),
            hashes: self.hashes.clone(),
            metadata: self.metadata.clone(),
        }
    }
}

fn dtype_name(dtype: DType) -> String {
    format!("{dtype:?}")
}
