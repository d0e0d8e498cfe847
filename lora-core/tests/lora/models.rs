//! Small modules with the reference's field names, and safetensors files made by hand.

use std::collections::HashMap;

use burn::module::{Module, Param};
use burn::nn::conv::{Conv2d, Conv2dConfig};
use burn::nn::{Embedding, EmbeddingConfig, LayerNorm, LayerNormConfig, Linear, LinearConfig};
use burn::tensor::{Device, Tensor, TensorData};
use safetensors::Dtype;
use safetensors::tensor::TensorView;

#[derive(Module, Debug)]
pub struct Attention {
    pub to_q: Linear,
    pub to_k: Linear,
    pub to_out: [Linear; 1],
}

#[derive(Module, Debug)]
pub struct Block {
    pub attn1: Attention,
    pub norm1: LayerNorm,
}

#[derive(Module, Debug)]
pub struct Transformer {
    pub proj_in: Conv2d,
    pub transformer_blocks: Vec<Block>,
}

#[derive(Module, Debug)]
pub struct Resnet {
    pub conv1: Conv2d,
    pub time_emb_proj: Linear,
}

#[derive(Module, Debug)]
pub struct DownBlock {
    pub attentions: Option<Vec<Transformer>>,
    pub resnets: Vec<Resnet>,
}

/// Channels 6, time embedding 5, text 4.
#[derive(Module, Debug)]
pub struct Unet {
    pub conv_in: Conv2d,
    pub down_blocks: Vec<DownBlock>,
}

impl Unet {
    pub fn new(device: &Device) -> Self {
        let linear = |inputs, outputs| LinearConfig::new(inputs, outputs).init(device);
        let conv =
            |inputs, outputs, side| Conv2dConfig::new([inputs, outputs], [side, side]).init(device);
        let block = Block {
            attn1: Attention {
                to_q: linear(6, 6),
                to_k: linear(4, 6),
                to_out: [linear(6, 6)],
            },
            norm1: LayerNormConfig::new(6).init(device),
        };
        let transformer = Transformer {
            proj_in: conv(6, 6, 1),
            transformer_blocks: vec![block],
        };
        let resnet = Resnet {
            conv1: conv(3, 6, 3),
            time_emb_proj: linear(5, 6),
        };
        let block = DownBlock {
            attentions: Some(vec![transformer]),
            resnets: vec![resnet],
        };
        Self {
            conv_in: conv(4, 3, 3),
            down_blocks: vec![block],
        }
    }

    pub fn transformer(&self) -> &Transformer {
        &self.down_blocks[0].attentions.as_ref().unwrap()[0]
    }

    pub fn attention(&self) -> &Attention {
        &self.transformer().transformer_blocks[0].attn1
    }
}

#[derive(Module, Debug)]
pub struct SelfAttention {
    pub q_proj: Linear,
}

#[derive(Module, Debug)]
pub struct Mlp {
    pub fc1: Linear,
}

#[derive(Module, Debug)]
pub struct TextLayer {
    pub self_attn: SelfAttention,
    pub mlp: Mlp,
}

#[derive(Module, Debug)]
pub struct Encoder {
    pub layers: Vec<TextLayer>,
}

#[derive(Module, Debug)]
pub struct Embeddings {
    pub token_embedding: Embedding,
}

/// As transformers 5 has it.
#[derive(Module, Debug)]
pub struct Text {
    pub embeddings: Embeddings,
    pub encoder: Encoder,
}

/// As transformers 4 has it.
#[derive(Module, Debug)]
pub struct WrappedText {
    pub text_model: Text,
}

impl Text {
    pub fn new(device: &Device) -> Self {
        let linear = |inputs, outputs| LinearConfig::new(inputs, outputs).init(device);
        let layer = TextLayer {
            self_attn: SelfAttention {
                q_proj: linear(4, 4),
            },
            mlp: Mlp { fc1: linear(4, 8) },
        };
        let embeddings = Embeddings {
            token_embedding: EmbeddingConfig::new(9, 4).init(device),
        };
        Self {
            embeddings,
            encoder: Encoder {
                layers: vec![layer],
            },
        }
    }
}

/// Numbers that look random, the same for the same seed, in [-1, 1).
pub fn noise(seed: u64, length: usize) -> Vec<f32> {
    let mut state = seed.wrapping_mul(0x9E37_79B9_7F4A_7C15).wrapping_add(1);
    let next = || {
        state = state
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1_442_695_040_888_963_407);
        ((state >> 40) as f32) / (1u64 << 23) as f32 - 1.0
    };
    std::iter::repeat_with(next).take(length).collect()
}

/// A tensor of a file.
#[derive(Clone, Debug)]
pub struct Entry {
    pub key: String,
    pub dtype: Dtype,
    pub shape: Vec<usize>,
    pub data: Vec<u8>,
}

pub fn f32s(key: &str, shape: &[usize], values: &[f32]) -> Entry {
    let data = values
        .iter()
        .flat_map(|value| value.to_le_bytes())
        .collect();
    Entry {
        key: key.to_owned(),
        dtype: Dtype::F32,
        shape: shape.to_vec(),
        data,
    }
}

pub fn raw(key: &str, dtype: Dtype, shape: &[usize], data: &[u8]) -> Entry {
    Entry {
        key: key.to_owned(),
        dtype,
        shape: shape.to_vec(),
        data: data.to_vec(),
    }
}

pub fn file(entries: &[Entry], metadata: &[(&str, &str)]) -> Vec<u8> {
    let views = entries.iter().map(|e| {
        (
            e.key.as_str(),
            TensorView::new(e.dtype, e.shape.clone(), &e.data).unwrap(),
        )
    });
    let metadata: HashMap<_, _> = metadata
        .iter()
        .map(|&(k, v)| (k.to_owned(), v.to_owned()))
        .collect();
    safetensors::serialize(views, (!metadata.is_empty()).then_some(metadata)).unwrap()
}

/// Down, up and alpha of one module in kohya's dialect.
pub fn kohya(
    module: &str,
    down: &[usize],
    up: &[usize],
    alpha: Option<f32>,
    seed: u64,
) -> Vec<Entry> {
    let size = |shape: &[usize]| shape.iter().product();
    let mut entries = vec![
        f32s(
            &format!("{module}.lora_down.weight"),
            down,
            &noise(seed, size(down)),
        ),
        f32s(
            &format!("{module}.lora_up.weight"),
            up,
            &noise(seed + 1000, size(up)),
        ),
    ];
    entries.extend(alpha.map(|alpha| f32s(&format!("{module}.alpha"), &[], &[alpha])));
    entries
}

pub const TO_Q: &str = "lora_unet_down_blocks_0_attentions_0_transformer_blocks_0_attn1_to_q";
pub const TO_K: &str = "lora_unet_down_blocks_0_attentions_0_transformer_blocks_0_attn1_to_k";
pub const PROJ_IN: &str = "lora_unet_down_blocks_0_attentions_0_proj_in";
pub const CONV1: &str = "lora_unet_down_blocks_0_resnets_0_conv1";
pub const FC1: &str = "lora_te_text_model_encoder_layers_0_mlp_fc1";

/// Linear layers, a 1×1 and a 3×3 convolution, and one module of the text encoder.
pub fn whole(seed: u64) -> Vec<Entry> {
    [
        kohya(TO_Q, &[2, 6], &[6, 2], Some(1.0), seed),
        kohya(TO_K, &[2, 4], &[6, 2], None, seed + 1),
        kohya(PROJ_IN, &[3, 6, 1, 1], &[6, 3, 1, 1], Some(1.5), seed + 2),
        kohya(CONV1, &[2, 3, 3, 3], &[6, 2, 1, 1], Some(4.0), seed + 3),
        kohya(FC1, &[2, 4], &[8, 2], Some(2.0), seed + 4),
    ]
    .concat()
}

/// scale · up · down by hand, `[out, in]` in row-major order.
pub fn product(seed: u64, rank: usize, fan_in: usize, fan_out: usize, scale: f64) -> Vec<f64> {
    let (down, up) = (
        noise(seed, rank * fan_in),
        noise(seed + 1000, fan_out * rank),
    );
    let mut out = vec![0.0; fan_out * fan_in];
    for (at, value) in out.iter_mut().enumerate() {
        let (row, column) = (at / fan_in, at % fan_in);
        let terms =
            (0..rank).map(|r| f64::from(up[row * rank + r]) * f64::from(down[r * fan_in + column]));
        *value = scale * terms.sum::<f64>();
    }
    out
}

pub fn bits<const D: usize>(param: &Param<Tensor<D>>) -> Vec<u32> {
    parity::values(param.val())
        .into_iter()
        .map(f32::to_bits)
        .collect()
}

pub fn tensor<const D: usize>(values: Vec<f32>, shape: [usize; D], device: &Device) -> Tensor<D> {
    Tensor::from_data(TensorData::new(values, shape), device)
}
