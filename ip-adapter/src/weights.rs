use std::collections::BTreeMap;
use std::fmt;
use std::str::FromStr;

use sd_unet::CrossAttention;

use crate::IpAdapterError;

/// How strongly an adapter acts in each cross-attention layer.
///
/// Written as `style`, `composition`, `style+composition`, or as pairs `layer:weight` such as `0:1,5:0.5`, in which layers that are not
/// named have weight 0. Layers are counted in the order in which they run, as ComfyUI counts them: in Stable Diffusion 1.x 0 to 5 on
/// the way down, 6 in the middle, 7 to 15 on the way up. The presets and their numbers are those of ComfyUI's IPAdapter plus.
///
/// ```
/// use ip_adapter::LayerWeights;
///
/// let weights: LayerWeights = "4:0.25,5:1".parse()?;
/// assert_eq!(weights.to_string(), "4:0.25,5:1");
/// # Ok::<(), ip_adapter::IpAdapterError>(())
/// ```
#[derive(Clone, Debug, PartialEq)]
pub enum LayerWeights {
    /// Colours, brush and materials: 1 in layers 0 to 3 and 9 to 15.
    Style,
    /// What is where: 0.25 in layer 4, 1 in layer 5.
    Composition,
    /// The two of them.
    StyleAndComposition,
    /// The weight of each layer; 0 where there is none.
    Each(BTreeMap<usize, f32>),
}

/// The cross-attention layers of Stable Diffusion 1.x.
const LAYERS: usize = 16;

impl LayerWeights {
    /// The weight of each layer of `layers`, the UNet's, in their order.
    ///
    /// # Errors
    /// If a layer is named that the UNet has not; if a preset, which is made for Stable Diffusion 1.x, meets a UNet of other than 16 layers.
    pub fn per_layer(&self, layers: &[CrossAttention]) -> Result<Vec<f32>, IpAdapterError> {
        let error = |reason| IpAdapterError::Weights {
            text: self.to_string(),
            reason,
        };
        if !matches!(self, Self::Each(_)) && layers.len() != LAYERS {
            return Err(error(format!(
                "made for the {LAYERS} cross-attention layers of Stable Diffusion 1.x, the UNet has {}; name its layers",
                layers.len()
            )));
        }
        let each = self.each();
        if let Some(layer) = each.keys().find(|&&layer| layer >= layers.len()) {
            return Err(error(format!(
                "there is no layer {layer}; the UNet has layers 0 to {}",
                layers.len().saturating_sub(1)
            )));
        }
        let mut weights = vec![0.0; layers.len()];
        for (ran, at) in order_of_running(layers).into_iter().enumerate() {
            weights[at] = each.get(&ran).copied().unwrap_or_default();
        }
        Ok(weights)
    }

    /// By layer, in the order of running.
    fn each(&self) -> BTreeMap<usize, f32> {
        let style = (0..=3).chain(9..=15).map(|layer| (layer, 1.0));
        let composition = [(4, 0.25), (5, 1.0)];
        match self {
            Self::Style => style.collect(),
            Self::Composition => composition.into(),
            Self::StyleAndComposition => style.chain(composition).collect(),
            Self::Each(each) => each.clone(),
        }
    }
}

/// The indices of the layers, listed down, up, mid, in the order down, mid, up.
fn order_of_running(layers: &[CrossAttention]) -> Vec<usize> {
    let part = |name: &str| {
        let begins = move |(_, layer): &(usize, &CrossAttention)| layer.path.starts_with(name);
        layers
            .iter()
            .enumerate()
            .filter(begins)
            .map(|(at, _)| at)
            .collect::<Vec<_>>()
    };
    [part("down_blocks."), part("mid_block."), part("up_blocks.")].concat()
}

impl FromStr for LayerWeights {
    type Err = IpAdapterError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let error = |reason: String| IpAdapterError::Weights {
            text: text.to_owned(),
            reason,
        };
        match text.trim() {
            "style" => return Ok(Self::Style),
            "composition" => return Ok(Self::Composition),
            "style+composition" => return Ok(Self::StyleAndComposition),
            _ => {}
        }
        let mut each = BTreeMap::new();
        for pair in text.split(',').map(str::trim) {
            let Some((layer, weight)) = pair.split_once(':') else {
                return Err(error(format!(
                    "`{pair}` is neither `layer:weight`, as in `0:1,5:0.5`, nor one of `style`, `composition` and `style+composition`"
                )));
            };
            let layer = layer.trim().parse::<usize>().map_err(|_| {
                error(format!(
                    "`{layer}` in `{pair}` is no layer: expected a number from 0 on"
                ))
            })?;
            let weight = weight
                .trim()
                .parse::<f32>()
                .ok()
                .filter(|w| w.is_finite())
                .ok_or_else(|| {
                    error(format!(
                        "`{weight}` in `{pair}` is no weight: expected a number such as 0.5"
                    ))
                })?;
            if each.insert(layer, weight).is_some() {
                return Err(error(format!("layer {layer} is named twice")));
            }
        }
        Ok(Self::Each(each))
    }
}

impl fmt::Display for LayerWeights {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Style => f.write_str("style"),
            Self::Composition => f.write_str("composition"),
            Self::StyleAndComposition => f.write_str("style+composition"),
            Self::Each(each) => {
                let pairs: Vec<String> = each
                    .iter()
                    .map(|(layer, weight)| format!("{layer}:{weight}"))
                    .collect();
                f.write_str(&pairs.join(","))
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use sd_unet::UNetConfig;

    fn layers() -> Vec<CrossAttention> {
        UNetConfig::default().cross_attentions()
    }

    #[test]
    fn layers_are_counted_as_they_run() {
        // The middle, 6th to run, is listed last.
        let weights: LayerWeights = "0:1, 6:0.5, 7:-2".parse().unwrap();
        let per_layer = weights.per_layer(&layers()).unwrap();
        assert_eq!(per_layer[0], 1.0);
        assert_eq!(per_layer[15], 0.5);
        assert_eq!(per_layer[6], -2.0);
        assert_eq!(per_layer.iter().filter(|&&w| w != 0.0).count(), 3);
    }

    #[test]
    fn presets_are_comfyuis() {
        let of = |text: &str| {
            text.parse::<LayerWeights>()
                .unwrap()
                .per_layer(&layers())
                .unwrap()
        };
        // down 0 to 5; up 7 to 15, listed from 6 on; mid 6, listed last.
        let style = [
            1., 1., 1., 1., 0., 0., 0., 0., 1., 1., 1., 1., 1., 1., 1., 0.,
        ];
        let composition = [
            0., 0., 0., 0., 0.25, 1., 0., 0., 0., 0., 0., 0., 0., 0., 0., 0.,
        ];
        assert_eq!(of("style"), style);
        assert_eq!(of("composition"), composition);
        let both: Vec<f32> = style.iter().zip(composition).map(|(a, b)| a + b).collect();
        assert_eq!(of("style+composition"), both);
    }

    #[test]
    fn errors_say_what_is_wrong() {
        for (text, expected) in [
            ("", "`` is neither `layer:weight`"),
            ("styel", "`styel` is neither"),
            ("0:1,", "`` is neither"),
            ("0:1;5:2", "`1;5:2` in `0:1;5:2` is no weight"),
            ("x:1", "`x` in `x:1` is no layer"),
            ("-1:1", "`-1` in `-1:1` is no layer"),
            ("0:nan", "`nan` in `0:nan` is no weight"),
            ("0:1e60", "is no weight"),
            ("3:1,3:2", "layer 3 is named twice"),
        ] {
            let error = text.parse::<LayerWeights>().unwrap_err().to_string();
            assert!(error.contains(expected), "{text}: {error}");
        }
        let error = LayerWeights::Each([(16, 1.0)].into())
            .per_layer(&layers())
            .unwrap_err();
        assert!(
            error
                .to_string()
                .contains("no layer 16; the UNet has layers 0 to 15"),
            "{error}"
        );
        let error = LayerWeights::Style.per_layer(&layers()[..3]).unwrap_err();
        assert!(error.to_string().contains("the UNet has 3"), "{error}");
    }

    fn weights() -> impl Strategy<Value = LayerWeights> {
        let each = proptest::collection::btree_map(0usize..40, -1e6f32..1e6, 1..20);
        prop_oneof![
            Just(LayerWeights::Style),
            Just(LayerWeights::Composition),
            Just(LayerWeights::StyleAndComposition),
            each.prop_map(LayerWeights::Each),
        ]
    }

    proptest! {
        #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

        #[test]
        fn what_is_written_is_read_again(weights in weights()) {
            prop_assert_eq!(weights.to_string().parse::<LayerWeights>().unwrap(), weights);
        }

        #[test]
        fn no_text_makes_the_parser_panic(text in "[0-9:,. +a-z-]{0,24}") {
            if let Ok(weights) = text.parse::<LayerWeights>() {
                let again: LayerWeights = weights.to_string().parse().unwrap();
                prop_assert_eq!(&again, &weights);
                if let Ok(per_layer) = weights.per_layer(&layers()) {
                    prop_assert!(per_layer.iter().all(|w| w.is_finite()));
                }
            }
        }

        #[test]
        fn every_weight_reaches_one_layer(each in proptest::collection::btree_map(0usize..16, 0.5f32..2.0, 1..16)) {
            let mut per_layer = LayerWeights::Each(each.clone()).per_layer(&layers()).unwrap();
            let mut given: Vec<f32> = each.into_values().collect();
            per_layer.retain(|&w| w != 0.0);
            per_layer.sort_by(f32::total_cmp);
            given.sort_by(f32::total_cmp);
            prop_assert_eq!(per_layer, given);
        }
    }
}
