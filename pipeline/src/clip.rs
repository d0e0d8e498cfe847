use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use burn::tensor::{DType, Device, FloatDType, Int, Tensor, TensorData};
use clip_text::{ClipTextModelWithProjection, ClipTextProjectionConfig, Tokenizer};
use clip_vision::Fit;
use image::RgbImage;

use crate::{CheckpointError, ImageEncoder, ImageEncoderFile, PipelineError, Weights, load_module};

/// Pictures or texts that are encoded at once.
const BATCH: usize = 8;

/// A CLIP (Radford et al. 2021): pictures and texts as directions in one space, where what belongs together lies close.
///
/// ```no_run
/// use burn::tensor::FloatDType;
/// use clip_vision::Fit;
/// use sd_pipeline::Clip;
///
/// # fn main() -> Result<(), Box<dyn std::error::Error>> {
/// # let device = parity::device();
/// let clip = Clip::open("clip-vit-large-patch14", FloatDType::F32, &device)?;
/// let picture = image::open("mira.png")?.into_rgb8();
/// let seen = clip.embed_pictures(&[&picture], Fit::Crop);
/// let told = clip.embed_texts(&["a woman reads under a tree"]).expect("a whole CLIP");
/// let agreement: f32 = seen[0].iter().zip(&told[0]).map(|(a, b)| a * b).sum();
/// # Ok(())
/// # }
/// ```
#[derive(Clone, Debug)]
pub struct Clip {
    /// Of pictures.
    pub images: ImageEncoder,
    /// Of texts, where the folder has it.
    pub texts: Option<TextTower>,
    files: Vec<PathBuf>,
}

/// CLIP's text encoder with its projection and its tokenizer.
#[derive(Clone, Debug)]
pub struct TextTower {
    /// Tokens to an embedding.
    pub model: ClipTextModelWithProjection,
    /// Its sizes.
    pub config: ClipTextProjectionConfig,
    /// Texts to tokens.
    pub tokenizer: Tokenizer,
}

impl Clip {
    /// Opens what [`ImageEncoderFile::open`] does. A folder with a whole `CLIPModel`, as of `openai/clip-vit-large-patch14` or
    /// `laion/CLIP-ViT-H-14-laion2B-s32B-b79K`, gives the text encoder too; the folder of a `CLIPVisionModelWithProjection`, or a single
    /// file, pictures alone.
    ///
    /// # Errors
    /// As [`ImageEncoderFile::open`]; if there is a text encoder without its projection, or without a tokenizer that fits it.
    pub fn open(
        path: impl AsRef<Path>,
        dtype: FloatDType,
        device: &Device,
    ) -> Result<Self, PipelineError> {
        let path = path.as_ref();
        let file = ImageEncoderFile::open(path)?;
        let mut files = file.files();
        let texts = match path.is_dir() {
            true => TextTower::open(&file, &mut files, dtype, device)?,
            false => None,
        };
        Ok(Self {
            images: file.load(dtype, device)?,
            texts,
            files,
        })
    }

    /// All files that its results depend on.
    pub fn files(&self) -> &[PathBuf] {
        &self.files
    }

    /// The embedding of each picture, of length 1.
    ///
    /// # Panics
    /// If a side of a picture is 0.
    pub fn embed_pictures(&self, pictures: &[&RgbImage], fit: Fit) -> Vec<Vec<f32>> {
        let batches = pictures.chunks(BATCH);
        batches
            .flat_map(|pictures| rows(self.images.encode(pictures, fit).image_embeds))
            .collect()
    }

    /// The embedding of each text, of length 1; none without a text encoder. A text is read as far as the encoder has positions, 77 tokens
    /// with start and end.
    pub fn embed_texts(&self, texts: &[&str]) -> Option<Vec<Vec<f32>>> {
        let tower = self.texts.as_ref()?;
        Some(
            texts
                .chunks(BATCH)
                .flat_map(|texts| tower.embed(texts))
                .collect(),
        )
    }
}

impl TextTower {
    /// The text encoder of a whole CLIP, if the image encoder's file is part of one.
    fn open(
        file: &ImageEncoderFile,
        files: &mut Vec<PathBuf>,
        dtype: FloatDType,
        device: &Device,
    ) -> Result<Option<Self>, PipelineError> {
        let tensors = file.weights().file();
        let own = |name: &&str| {
            (name.starts_with("text_model.") && !name.ends_with(".position_ids"))
                || *name == "text_projection.weight"
        };
        let names: BTreeMap<String, String> = (tensors.names().filter(own))
            .map(|name| (name.to_owned(), name.to_owned()))
            .collect();
        if names.is_empty() {
            return Ok(None);
        }
        let folder = tensors.path().parent().unwrap_or(Path::new("."));
        let path = folder.join("config.json");
        let text = std::fs::read_to_string(&path).map_err(|source| CheckpointError::Io {
            path: path.clone(),
            source,
        })?;
        let config = ClipTextProjectionConfig::from_json(&text, &path)?;
        let tokenizer = tokenizer(folder, &config, files)?;
        tokenizer.check(&config.text)?;
        let weights = Weights::renamed(tensors.clone(), names);
        Ok(Some(Self {
            model: load_module(config.init(device), &weights, dtype)?,
            config,
            tokenizer,
        }))
    }

    /// The embedding of each text, of length 1.
    fn embed(&self, texts: &[&str]) -> Vec<Vec<f32>> {
        let positions = self.config.text.max_position_embeddings;
        let length = self.tokenizer.model_max_length().min(positions);
        let tokens: Vec<Vec<u32>> = texts.iter().map(|text| self.tokens(text, length)).collect();
        let ends: Vec<usize> = tokens.iter().map(|one| self.config.end(one)).collect();
        let all: Vec<i64> = tokens.iter().flatten().map(|&token| token.into()).collect();
        let data = TensorData::new(all, [texts.len(), length]);
        let tokens = Tensor::<2, Int>::from_data(data, &self.model.device());
        rows(self.model.forward(tokens, &ends))
    }

    /// Start, the text as far as it fits, end and padding.
    fn tokens(&self, text: &str, length: usize) -> Vec<u32> {
        let tokenizer = &self.tokenizer;
        let words = tokenizer.encode(text).into_iter().take(length - 2);
        let mut tokens: Vec<u32> = std::iter::once(tokenizer.bos()).chain(words).collect();
        tokens.push(tokenizer.eos());
        tokens.resize(length, tokenizer.pad());
        tokens
    }
}

/// The folder's own tokenizer, or that of the folder `tokenizer` beside or within it; CLIP's own where its table has the encoder's size.
fn tokenizer(
    folder: &Path,
    config: &ClipTextProjectionConfig,
    files: &mut Vec<PathBuf>,
) -> Result<Tokenizer, PipelineError> {
    let places = [Some(folder), folder.parent()].into_iter().flatten();
    let mut places: Vec<PathBuf> = places.map(|place| place.join("tokenizer")).collect();
    places.insert(0, folder.to_owned());
    for place in places {
        let has = |name: &str| place.join(name).is_file();
        if has("tokenizer.json") || (has("vocab.json") && has("merges.txt")) {
            let known = [
                "tokenizer.json",
                "vocab.json",
                "merges.txt",
                "tokenizer_config.json",
                "special_tokens_map.json",
                "added_tokens.json",
            ];
            files.extend(
                known
                    .map(|name| place.join(name))
                    .into_iter()
                    .filter(|f| f.is_file()),
            );
            return Ok(Tokenizer::open(&place)?);
        }
    }
    let built_in = Tokenizer::built_in();
    match built_in.vocab_size() == config.text.vocab_size {
        true => Ok(built_in),
        false => Err(clip_text::Error::NoTokenizer {
            folder: folder.to_owned(),
        }
        .into()),
    }
}

/// The rows of a matrix, each scaled to length 1.
fn rows(matrix: Tensor<2>) -> Vec<Vec<f32>> {
    let [_, width] = matrix.dims();
    let values: Vec<f32> = matrix
        .into_data()
        .convert_dtype(DType::F32)
        .iter::<f32>()
        .collect();
    let row = |row: &[f32]| {
        let square: f64 = row.iter().map(|&value| f64::from(value).powi(2)).sum();
        let length = square.sqrt().max(f64::MIN_POSITIVE);
        row.iter()
            .map(|&value| (f64::from(value) / length) as f32)
            .collect()
    };
    values.chunks(width).map(row).collect()
}
