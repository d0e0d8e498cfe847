use std::collections::BTreeSet;
use std::path::Path;

use anyhow::{Context, Result};
use serde_json::{Map, Value, json};
use tokenizers::models::TrainerWrapper;
use tokenizers::models::bpe::{BPE, BpeTrainer};
use tokenizers::pre_tokenizers::byte_level::ByteLevel;
use tokenizers::{Model, Trainer};

use super::{Example, Stream, write_whole};
use crate::puppet::caption;

/// Tokens that a caption is read in at once, with start and end.
pub const POSITIONS: usize = 77;

const END_OF_WORD: &str = "</w>";
const START_OF_TEXT: &str = "<|startoftext|>";
const END_OF_TEXT: &str = "<|endoftext|>";

/// What people write into prompts beside what the captions say: the recipe's anchors and negatives, and words on quality.
const PROMPTS: &str = "identical face, same hairstyle, same person, consistent character, same clothes, same eyes, different person, \
    character change, different face, different hairstyle, deformed, blurry, low quality, bad anatomy, extra fingers, worst quality, \
    best quality, masterpiece, high quality, detailed, sharp focus, cartoon, portrait, photo of, picture of, close up, my character, \
    mychar, character, person, someone, looking at the viewer, young, old, hair, face, eyes, background, lighting, cinematic, scene";

/// Trains the tokenizer's merges on captions, words of prompts and some text in English, and writes `vocab.json`, `merges.txt` and the files beside them into a
/// folder, as transformers lays out CLIP's tokenizer: 256 bytes, the same at a word's end, one token a merge, start and end of a text.
///
/// # Errors
/// If a file cannot be written.
pub fn train_tokenizer(seed: u64, most: usize, text: &[String], folder: &Path) -> Result<()> {
    let alphabet: BTreeSet<char> = ByteLevel::alphabet().into_iter().collect();
    let trainer = BpeTrainer::builder()
        .vocab_size(most - 2)
        .min_frequency(2)
        .show_progress(false)
        .initial_alphabet(alphabet.iter().copied().collect())
        .end_of_word_suffix(END_OF_WORD.into())
        .build();
    let mut trainer = TrainerWrapper::BpeTrainer(trainer);
    let captions = (0..5000).map(|number| {
        let example = Example::new(seed, number);
        caption(example.character.sex, &example.shot, None)
    });
    let lines = captions
        .chain(std::iter::repeat_n(PROMPTS.to_owned(), 100))
        .chain(text.iter().cloned());
    let split = |line: &str| Ok(words(line));
    trainer
        .feed(lines, split)
        .map_err(|error| anyhow::anyhow!("the words cannot be counted: {error}"))?;
    let mut model = tokenizers::ModelWrapper::BPE(BPE::default());
    trainer
        .train(&mut model)
        .map_err(|error| anyhow::anyhow!("the merges cannot be found: {error}"))?;
    let saved = tempfile::tempdir()?;
    model
        .save(saved.path(), None)
        .map_err(|error| anyhow::anyhow!("the merges cannot be saved: {error}"))?;
    let merges = std::fs::read_to_string(saved.path().join("merges.txt"))?;
    let merges: Vec<&str> = merges
        .lines()
        .filter(|line| !line.starts_with('#') && !line.is_empty())
        .collect();

    let bytes = alphabet.iter().map(char::to_string);
    let ends = alphabet.iter().map(|c| format!("{c}{END_OF_WORD}"));
    let merged = merges.iter().map(|line| line.replacen(' ', "", 1));
    let special = [START_OF_TEXT, END_OF_TEXT].map(String::from);
    let mut vocabulary = Map::new();
    for token in bytes.chain(ends).chain(merged).chain(special) {
        let next = vocabulary.len();
        vocabulary.entry(token).or_insert(next.into());
    }
    let write = |name: &str, text: String| {
        let path = folder.join(name);
        write_whole(&path, text.as_bytes()).with_context(|| format!("`{}`", path.display()))
    };
    write("vocab.json", Value::Object(vocabulary).to_string())?;
    write(
        "merges.txt",
        format!("#version: 0.2\n{}\n", merges.join("\n")),
    )?;
    let token = |content: &str, normalized: bool| json!({"content": content, "lstrip": false, "normalized": normalized, "rstrip": false, "single_word": false});
    let special = json!({
        "bos_token": token(START_OF_TEXT, true),
        "eos_token": token(END_OF_TEXT, true),
        "unk_token": token(END_OF_TEXT, true),
        "pad_token": token(END_OF_TEXT, true),
    });
    write("special_tokens_map.json", format!("{special:#}\n"))?;
    let config = json!({
        "add_prefix_space": false,
        "bos_token": token(START_OF_TEXT, true),
        "do_lower_case": true,
        "eos_token": token(END_OF_TEXT, true),
        "errors": "replace",
        "model_max_length": POSITIONS,
        "pad_token": END_OF_TEXT,
        "tokenizer_class": "CLIPTokenizer",
        "unk_token": token(END_OF_TEXT, true),
    });
    write("tokenizer_config.json", format!("{config:#}\n"))
}

/// The words of a text: runs of letters in lower case, and commas.
fn words(text: &str) -> Vec<String> {
    text.to_lowercase()
        .replace(',', " , ")
        .split(|c: char| !c.is_ascii_lowercase() && c != ',')
        .filter(|word| !word.is_empty())
        .map(String::from)
        .collect()
}

/// What a picture is called in training: its caption as a rule; now and then with a clause left out, or with words in front that mean
/// nothing yet, as a trigger word does not; one in ten has no words, for guidance without a classifier (Ho & Salimans 2022).
pub fn training_caption(example: &Example, random: &mut Stream) -> String {
    if random.unit() < 0.1 {
        return String::new();
    }
    let words = caption(example.character.sex, &example.shot, None);
    let mut clauses: Vec<&str> = words.split(", ").collect();
    if random.unit() < 0.2 {
        let left_out = random.below(clauses.len());
        clauses.remove(left_out);
    }
    let mut front = String::new();
    if random.unit() < 0.2 {
        let letters = 2 + random.below(7);
        front.extend((0..letters).map(|_| char::from(b'a' + random.below(26) as u8)));
        if random.unit() < 0.5 {
            front.push_str(&format!("{:03}", random.below(1000)));
        }
        clauses.insert(0, &front);
    }
    clauses.join(", ")
}
