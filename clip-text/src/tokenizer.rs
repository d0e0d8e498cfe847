use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

use serde::Deserialize;
use serde_json::{Map, Value};
use tokenizers::models::bpe::BPE;
use tokenizers::normalizers::{Lowercase, NFC, NormalizerWrapper, Replace, Sequence};
use tokenizers::pre_tokenizers::byte_level::ByteLevel;
use tokenizers::pre_tokenizers::sequence::Sequence as PreTokenizers;
use tokenizers::pre_tokenizers::split::{Split, SplitPattern};
use tokenizers::{AddedToken, SplitDelimiterBehavior};

use crate::error::{Error, Result};
use crate::model::ClipTextConfig;
use crate::table::Table;

pub(crate) const START_OF_TEXT: &str = "<|startoftext|>";
pub(crate) const END_OF_TEXT: &str = "<|endoftext|>";
const END_OF_WORD: &str = "</w>";
const WORDS: &str =
    r"<\|startoftext\|>|<\|endoftext\|>|'s|'t|'re|'ve|'m|'ll|'d|[\p{L}]+|[\p{N}]|[^\s\p{L}\p{N}]+";
const MAX_LENGTH: usize = 77;

/// CLIP's tokenizer: lowercase text to byte pairs (Radford et al. 2021, §2.4), as transformers' `CLIPTokenizerFast` does it.
///
/// ```
/// use clip_text::Tokenizer;
///
/// let tokenizer = Tokenizer::built_in();
/// assert_eq!(tokenizer.encode("A person riding a motorcycle"), [320, 2533, 6765, 320, 10297]);
/// assert_eq!(tokenizer.encode_padded("a cat")[..5], [49406, 320, 2368, 49407, 49407]);
/// ```
#[derive(Debug, Clone)]
pub struct Tokenizer {
    inner: tokenizers::Tokenizer,
    bos: u32,
    eos: u32,
    pad: u32,
    comma: Option<u32>,
    vocab_size: usize,
    model_max_length: usize,
}

impl Tokenizer {
    /// Opens a tokenizer folder as diffusers and transformers write it: `tokenizer.json`, or else `vocab.json` and `merges.txt`, with what
    /// `tokenizer_config.json`, `special_tokens_map.json` and `added_tokens.json` say, where they are there.
    ///
    /// # Errors
    /// If a file is missing, garbled, or not CLIP's.
    pub fn open(folder: impl AsRef<Path>) -> Result<Self> {
        let folder = folder.as_ref();
        let settings = Settings {
            config: read_object(&folder.join("tokenizer_config.json"))?.unwrap_or_default(),
            map: read_object(&folder.join("special_tokens_map.json"))?.unwrap_or_default(),
            added: read_object(&folder.join("added_tokens.json"))?.unwrap_or_default(),
        };
        let (json, vocab, merges) = (
            folder.join("tokenizer.json"),
            folder.join("vocab.json"),
            folder.join("merges.txt"),
        );
        if json.is_file() {
            Self::open_json(&json, settings)
        } else if vocab.is_file() && merges.is_file() {
            Self::open_files(&vocab, &merges, settings)
        } else {
            Err(Error::NoTokenizer {
                folder: folder.into(),
            })
        }
    }

    /// Opens `vocab.json` and `merges.txt`, with CLIP's own special tokens.
    ///
    /// # Errors
    /// If a file is missing, garbled, or not CLIP's.
    pub fn from_files(vocab: impl AsRef<Path>, merges: impl AsRef<Path>) -> Result<Self> {
        Self::open_files(vocab.as_ref(), merges.as_ref(), Settings::default())
    }

    /// Opens `tokenizer.json`. As transformers' CLIP class does, it takes the table and the added tokens from the file; how text is
    /// normalised and split is CLIP's.
    ///
    /// # Errors
    /// If the file is missing, garbled, or not CLIP's.
    pub fn from_json(json: impl AsRef<Path>) -> Result<Self> {
        Self::open_json(json.as_ref(), Settings::default())
    }

    /// OpenAI's own tokenizer, which every Stable Diffusion 1.x checkpoint uses, from the table in `instant-clip-tokenizer`: for
    /// single-file checkpoints, which carry none.
    pub fn built_in() -> Self {
        let path = Path::new("the built-in table");
        Self::new(Table::built_in(), Vec::new(), &Settings::default(), path)
            .expect("the built-in table is CLIP's")
    }

    /// The tokens of a text, without start, end and padding. A literal `<|endoftext|>` in the text becomes that token, as in the reference.
    pub fn encode(&self, text: &str) -> Vec<u32> {
        self.inner
            .encode_fast(text, false)
            .expect("the split takes every text, and unknown bytes have a token")
            .get_ids()
            .to_vec()
    }

    /// Start, the text's tokens, end and padding: [`model_max_length`](Self::model_max_length) tokens. Text that does not fit is cut off;
    /// [`Prompt::chunks`](crate::Prompt::chunks) says what.
    pub fn encode_padded(&self, text: &str) -> Vec<u32> {
        let mut tokens = vec![self.bos];
        tokens.extend(
            self.encode(text)
                .into_iter()
                .take(self.model_max_length - 2),
        );
        tokens.push(self.eos);
        tokens.resize(self.model_max_length, self.pad);
        tokens
    }

    /// The text of tokens: lowercase, a space between words, unknown tokens left out.
    pub fn decode(&self, tokens: &[u32]) -> String {
        let text = self.inner.decode(tokens, false).unwrap_or_default();
        text.replace(END_OF_WORD, " ").trim().to_owned()
    }

    /// The token that a text starts with: 49406 in OpenAI's table.
    pub fn bos(&self) -> u32 {
        self.bos
    }

    /// The token that a text ends with: 49407 in OpenAI's table.
    pub fn eos(&self) -> u32 {
        self.eos
    }

    /// The token that fills a text up: the end token in Stable Diffusion 1.x, `!` in 2.x.
    pub fn pad(&self) -> u32 {
        self.pad
    }

    /// How many tokens the text encoder reads at once, with start and end: 77.
    pub fn model_max_length(&self) -> usize {
        self.model_max_length
    }

    /// One more than the largest token: the rows that a token embedding has to have.
    pub fn vocab_size(&self) -> usize {
        self.vocab_size
    }

    /// Checks that a text encoder has an embedding for every token.
    ///
    /// # Errors
    /// If not: the two belong to different models.
    pub fn check(&self, config: &ClipTextConfig) -> Result<()> {
        if self.vocab_size <= config.vocab_size {
            return Ok(());
        }
        Err(Error::Vocabulary {
            tokenizer: self.vocab_size,
            model: config.vocab_size,
        })
    }

    /// The token of a comma that ends a word.
    pub(crate) fn comma(&self) -> Option<u32> {
        self.comma
    }

    fn open_files(vocab: &Path, merges: &Path, settings: Settings) -> Result<Self> {
        let table = Table {
            vocab: parse(
                &read(vocab)?,
                vocab,
                "an object of tokens and their numbers",
            )?,
            merges: Table::parse_merges(&read(merges)?, merges)?,
        };
        table.check(merges)?;
        Self::new(table, Vec::new(), &settings, vocab)
    }

    fn open_json(path: &Path, settings: Settings) -> Result<Self> {
        let file: TokenizerJson = parse(&read(path)?, path, "a byte-pair `tokenizer.json`")?;
        let suffix = file.model.end_of_word_suffix.unwrap_or_default();
        if suffix != END_OF_WORD {
            return Err(Error::Value {
                path: path.into(),
                key: "model.end_of_word_suffix".into(),
                found: format!("`{suffix}`"),
                expected: format!("CLIP's, `{END_OF_WORD}`"),
            });
        }
        let merges = file
            .model
            .merges
            .into_iter()
            .enumerate()
            .map(|(i, merge)| match merge {
                Merge::Pair(first, second) => Ok((first, second)),
                Merge::Line(line) => Table::parse_merge(&line, i + 1, path),
            });
        let table = Table {
            vocab: file.model.vocab,
            merges: merges.collect::<Result<_>>()?,
        };
        table.check(path)?;
        let added = file
            .added_tokens
            .into_iter()
            .map(|token| (token.id, token.token));
        Self::new(table, added.collect(), &settings, path)
    }

    /// `in_file` are the added tokens of `tokenizer.json`, `path` the file to name in an error.
    fn new(
        table: Table,
        in_file: Vec<(u32, AddedToken)>,
        settings: &Settings,
        path: &Path,
    ) -> Result<Self> {
        let special = SpecialTokens::collect(settings, in_file);
        for (key, token) in [
            ("bos_token", &special.bos),
            ("eos_token", &special.eos),
            ("unk_token", &special.unk),
        ] {
            if !table.vocab.contains_key(token) {
                return Err(Error::Token {
                    path: path.into(),
                    key,
                    token: token.clone(),
                });
            }
        }

        let vocab: ahash::AHashMap<String, u32> = table.vocab.into_iter().collect();
        let comma = vocab.get(",</w>").copied();
        let mut vocab_size = vocab.values().max().map_or(0, |&last| last as usize + 1);
        let table_error = |source| Error::Table {
            path: path.into(),
            source,
        };
        let model = BPE::builder()
            .vocab_and_merges(vocab, table.merges)
            .end_of_word_suffix(END_OF_WORD.into())
            .unk_token(special.unk.clone())
            .build()
            .map_err(table_error)?;

        let spaces = tokenizers::normalizers::replace::ReplacePattern::Regex(r"\s+".into());
        let normalizers: Vec<NormalizerWrapper> = vec![
            NFC.into(),
            Replace::new(spaces, " ").map_err(table_error)?.into(),
            Lowercase.into(),
        ];
        let words = SplitPattern::Regex(WORDS.into());
        let split =
            Split::new(words, SplitDelimiterBehavior::Removed, true).map_err(table_error)?;
        let bytes = ByteLevel::new(false, true, true);

        let mut inner = tokenizers::Tokenizer::new(model);
        inner
            .with_normalizer(Some(Sequence::new(normalizers)))
            .with_pre_tokenizer(Some(PreTokenizers::new(vec![split.into(), bytes.into()])))
            .with_decoder(Some(bytes));
        inner.add_tokens(&special.tokens);
        for token in &special.tokens {
            let id = inner.token_to_id(&token.content).unwrap_or_default();
            vocab_size = vocab_size.max(id as usize + 1);
        }
        let id = |key, token: &str| {
            inner.token_to_id(token).ok_or_else(|| Error::Token {
                path: path.into(),
                key,
                token: token.into(),
            })
        };
        Ok(Self {
            bos: id("bos_token", &special.bos)?,
            eos: id("eos_token", &special.eos)?,
            pad: id("pad_token", &special.pad)?,
            comma,
            vocab_size,
            model_max_length: settings.model_max_length(),
            inner,
        })
    }
}

#[derive(Deserialize)]
struct TokenizerJson {
    model: ModelJson,
    #[serde(default)]
    added_tokens: Vec<AddedJson>,
}

#[derive(Deserialize)]
struct ModelJson {
    vocab: BTreeMap<String, u32>,
    merges: Vec<Merge>,
    end_of_word_suffix: Option<String>,
}

#[derive(Deserialize)]
#[serde(untagged)]
enum Merge {
    Pair(String, String),
    Line(String),
}

#[derive(Deserialize)]
struct AddedJson {
    id: u32,
    #[serde(flatten)]
    token: AddedToken,
}

/// The JSON files beside the table; empty objects where there are none.
#[derive(Default)]
struct Settings {
    config: Map<String, Value>,
    map: Map<String, Value>,
    added: Map<String, Value>,
}

impl Settings {
    /// transformers writes 1e30 where nobody said a length.
    fn model_max_length(&self) -> usize {
        self.config
            .get("model_max_length")
            .and_then(Value::as_u64)
            .and_then(|length| usize::try_from(length).ok())
            .filter(|length| (3..=65_536).contains(length))
            .unwrap_or(MAX_LENGTH)
    }
}

/// The tokens that the settings name, and all that have to be recognised inside a text.
struct SpecialTokens {
    bos: String,
    eos: String,
    unk: String,
    pad: String,
    tokens: Vec<AddedToken>,
}

impl SpecialTokens {
    /// Which file counts for which token is transformers' order: `added_tokens_decoder` of `tokenizer_config.json` makes
    /// `special_tokens_map.json`, `added_tokens.json` and `tokenizer.json` of no account.
    fn collect(settings: &Settings, in_file: Vec<(u32, AddedToken)>) -> Self {
        const NAMED: [&str; 7] = [
            "bos_token",
            "eos_token",
            "unk_token",
            "sep_token",
            "pad_token",
            "cls_token",
            "mask_token",
        ];
        let Settings { config, map, added } = settings;
        let decoder = config
            .get("added_tokens_decoder")
            .and_then(Value::as_object);
        let mut values = config.clone();
        if decoder.is_none() {
            values.extend(map.iter().map(|(key, value)| (key.clone(), value.clone())));
        }
        let mut named: Vec<(&str, AddedToken)> = NAMED
            .iter()
            .filter_map(|&key| Some((key, values.get(key).and_then(special_token)?)))
            .collect();
        for (key, token) in [
            ("bos_token", START_OF_TEXT),
            ("eos_token", END_OF_TEXT),
            ("unk_token", END_OF_TEXT),
            ("pad_token", END_OF_TEXT),
        ] {
            if !named.iter().any(|(name, _)| *name == key) {
                named.push((key, AddedToken::from(token, true)));
            }
        }
        named.sort_by_key(|(key, _)| NAMED.iter().position(|name| name == key));

        let mut numbered: BTreeMap<u32, AddedToken> = BTreeMap::new();
        if let Some(decoder) = decoder {
            for (id, value) in decoder {
                if let (Ok(id), Some(token)) = (id.parse(), added_token(value, false)) {
                    numbered.insert(id, token);
                }
            }
        } else {
            for (content, id) in added {
                if let Some(id) = id.as_u64().and_then(|id| u32::try_from(id).ok()) {
                    let special = named.iter().any(|(_, token)| token.content == *content);
                    numbered.insert(id, AddedToken::from(content.as_str(), special));
                }
            }
            numbered.extend(in_file);
        }

        let mut tokens: Vec<AddedToken> = numbered.into_values().collect();
        for token in &mut tokens {
            token.special |= named.iter().any(|(_, name)| name.content == token.content);
        }
        let listed = tokens.len();
        let extra = ["additional_special_tokens", "extra_special_tokens"]
            .into_iter()
            .filter_map(|key| values.get(key)?.as_array())
            .flatten()
            .filter_map(special_token);
        for token in named.iter().map(|(_, token)| token.clone()).chain(extra) {
            if tokens[..listed]
                .iter()
                .any(|known| known.content == token.content)
            {
                continue;
            }
            // Of two settings for one token, the later is the one that counts.
            match tokens
                .iter_mut()
                .find(|known| known.content == token.content)
            {
                Some(known) => *known = token,
                None => tokens.push(token),
            }
        }
        let content = |key| {
            named
                .iter()
                .find(|(name, _)| *name == key)
                .map(|(_, token)| token.content.clone())
                .unwrap_or_default()
        };
        Self {
            bos: content("bos_token"),
            eos: content("eos_token"),
            unk: content("unk_token"),
            pad: content("pad_token"),
            tokens,
        }
    }
}

/// A special token as the settings write it: a string, or an object with `content`.
fn special_token(value: &Value) -> Option<AddedToken> {
    match value {
        Value::String(content) => Some(AddedToken::from(content.as_str(), true)),
        _ => added_token(value, true),
    }
    .filter(|token| !token.content.is_empty())
}

fn added_token(value: &Value, special: bool) -> Option<AddedToken> {
    let flag = |key| value.get(key).and_then(Value::as_bool);
    let special = special || flag("special").unwrap_or(false);
    let token = AddedToken::from(value.get("content")?.as_str()?, special)
        .lstrip(flag("lstrip").unwrap_or(false))
        .rstrip(flag("rstrip").unwrap_or(false))
        .single_word(flag("single_word").unwrap_or(false));
    let normalized = flag("normalized").unwrap_or(token.normalized);
    Some(token.normalized(normalized))
}

pub(crate) fn read(path: &Path) -> Result<String> {
    fs::read_to_string(path).map_err(|source| Error::Read {
        path: path.into(),
        source,
    })
}

pub(crate) fn parse<'a, T: Deserialize<'a>>(
    text: &'a str,
    path: &Path,
    expected: &'static str,
) -> Result<T> {
    serde_json::from_str(text).map_err(|source| Error::Json {
        path: path.into(),
        expected,
        source,
    })
}

/// The object in a JSON file, or `None` where there is no such file.
fn read_object(path: &Path) -> Result<Option<Map<String, Value>>> {
    if !path.exists() {
        return Ok(None);
    }
    parse(&read(path)?, path, "a JSON object").map(Some)
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;
    use proptest::prelude::*;
    use serde_json::json;
    use std::path::PathBuf;
    use std::sync::LazyLock;

    static BUILT_IN: LazyLock<Tokenizer> = LazyLock::new(Tokenizer::built_in);

    #[derive(Deserialize)]
    pub(crate) struct Tokens {
        pub(crate) merges_fnv: String,
        cases: Vec<(String, Vec<u32>)>,
        padded_fnv: Vec<String>,
        decoded: Vec<String>,
    }

    impl Tokens {
        pub(crate) fn open() -> Self {
            serde_json::from_str(&read(&fixtures().join("tokens.json")).unwrap()).unwrap()
        }

        #[track_caller]
        fn assert_equal(&self, tokenizer: &Tokenizer) {
            assert!(self.cases.len() >= 500);
            for ((text, tokens), padded) in self.cases.iter().zip(&self.padded_fnv) {
                assert_eq!(tokenizer.encode(text), *tokens, "{text:?}");
                let ours: Vec<String> = tokenizer
                    .encode_padded(text)
                    .iter()
                    .map(u32::to_string)
                    .collect();
                assert_eq!(ours.len(), 77);
                assert_eq!(fnv(ours.join(" ").as_bytes()), *padded, "{text:?}");
            }
            for ((_, tokens), decoded) in self.cases.iter().zip(&self.decoded) {
                assert_eq!(tokenizer.decode(tokens), *decoded);
            }
        }
    }

    /// FNV-1a, 64 bits.
    pub(crate) fn fnv(bytes: &[u8]) -> String {
        let state = bytes
            .iter()
            .fold(0xcbf2_9ce4_8422_2325_u64, |state, &byte| {
                (state ^ u64::from(byte)).wrapping_mul(0x100_0000_01b3)
            });
        format!("{state:016x}")
    }

    fn fixtures() -> PathBuf {
        Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures")
    }

    fn write_table(folder: &Path, table: &Table) {
        fs::write(folder.join("vocab.json"), json!(table.vocab).to_string()).unwrap();
        let lines = table.merges.iter().map(|(a, b)| format!("{a} {b}\n"));
        let merges: String = ["#version: 0.2\n".to_owned()]
            .into_iter()
            .chain(lines)
            .collect();
        fs::write(folder.join("merges.txt"), merges).unwrap();
    }

    #[test]
    fn the_built_in_tokenizer_is_transformers() {
        Tokens::open().assert_equal(&BUILT_IN);
        assert_eq!(
            (BUILT_IN.bos(), BUILT_IN.eos(), BUILT_IN.pad()),
            (49406, 49407, 49407)
        );
        assert_eq!(
            (BUILT_IN.vocab_size(), BUILT_IN.model_max_length()),
            (49408, 77)
        );
        BUILT_IN.check(&ClipTextConfig::default()).unwrap();
    }

    #[test]
    fn files_are_transformers_too() {
        let (tokens, folder) = (Tokens::open(), tempfile::tempdir().unwrap());
        let table = Table::built_in();
        write_table(folder.path(), &table);
        tokens.assert_equal(&Tokenizer::open(folder.path()).unwrap());
        let (vocab, merges) = (
            folder.path().join("vocab.json"),
            folder.path().join("merges.txt"),
        );
        tokens.assert_equal(&Tokenizer::from_files(&vocab, merges).unwrap());

        // `tokenizer.json` as the `tokenizers` crate writes it, then with the merges as older versions wrote them.
        fs::remove_file(vocab).unwrap();
        let path = folder.path().join("tokenizer.json");
        BUILT_IN.inner.save(&path, false).unwrap();
        tokens.assert_equal(&Tokenizer::from_json(&path).unwrap());
        let mut file: Value = serde_json::from_str(&read(&path).unwrap()).unwrap();
        let lines: Vec<String> = table
            .merges
            .iter()
            .map(|(a, b)| format!("{a} {b}"))
            .collect();
        file["model"]["merges"] = json!(lines);
        fs::write(&path, file.to_string()).unwrap();
        tokens.assert_equal(&Tokenizer::open(folder.path()).unwrap());
    }

    #[test]
    fn settings_count_as_in_transformers() {
        #[derive(Deserialize)]
        struct Case {
            name: String,
            files: BTreeMap<String, Value>,
            length: usize,
            bos: u32,
            eos: u32,
            pad: u32,
            vocab_size: usize,
            texts: Vec<String>,
            tokens: Vec<Vec<u32>>,
            padded: Vec<Vec<u32>>,
        }
        let tiny = fixtures().join("tiny");
        let cases: Vec<Case> =
            serde_json::from_str(&read(&tiny.join("folders.json")).unwrap()).unwrap();
        assert!(cases.len() >= 10);
        for case in cases {
            let folder = tempfile::tempdir().unwrap();
            for name in ["vocab.json", "merges.txt"] {
                fs::copy(tiny.join(name), folder.path().join(name)).unwrap();
            }
            for (name, content) in &case.files {
                fs::write(folder.path().join(name), content.to_string()).unwrap();
            }
            let ours = Tokenizer::open(folder.path()).unwrap();
            let name = &case.name;
            assert_eq!(
                (ours.bos, ours.eos, ours.pad),
                (case.bos, case.eos, case.pad),
                "{name}"
            );
            assert_eq!(ours.model_max_length, case.length, "{name}");
            assert_eq!(ours.vocab_size, case.vocab_size, "{name}");
            for ((text, tokens), padded) in case.texts.iter().zip(&case.tokens).zip(&case.padded) {
                assert_eq!(ours.encode(text), *tokens, "{name}: {text:?}");
                assert_eq!(ours.encode_padded(text), *padded, "{name}: {text:?}");
            }
        }
    }

    #[test]
    fn long_texts_are_taken() {
        for text in [
            "a",
            "ab ",
            "1",
            "!",
            "'",
            "'s",
            "é",
            "日",
            "😀",
            " ",
            "<|endoftext|>",
            "\u{301}",
        ] {
            let tokens = BUILT_IN.encode(&text.repeat(100_000));
            assert_eq!(tokens.is_empty(), text.trim().is_empty());
        }
    }

    #[test]
    fn wrong_folders_are_told() {
        let folder = tempfile::tempdir().unwrap();
        let message = || Tokenizer::open(folder.path()).unwrap_err().to_string();
        assert!(message().contains("found neither"), "{}", message());

        let write = |name: &str, text: &str| fs::write(folder.path().join(name), text).unwrap();
        write(
            "tokenizer.json",
            r#"{"model": {"type": "WordPiece", "vocab": {}}}"#,
        );
        assert!(
            message().contains("expected a byte-pair `tokenizer.json`"),
            "{}",
            message()
        );
        write(
            "tokenizer.json",
            r#"{"model": {"vocab": {"a": 0}, "merges": []}}"#,
        );
        assert!(
            message().contains("`model.end_of_word_suffix`"),
            "{}",
            message()
        );
        write(
            "tokenizer.json",
            r#"{"model": {"vocab": {"a": 0}, "merges": [], "end_of_word_suffix": "</w>"}}"#,
        );
        assert!(message().contains("no `<|startoftext|>`"), "{}", message());
        write("tokenizer_config.json", "[]");
        assert!(message().contains("tokenizer_config.json"), "{}", message());
    }

    #[test]
    fn a_tokenizer_of_another_model_is_told() {
        let config = ClipTextConfig {
            vocab_size: 1000,
            ..Default::default()
        };
        let message = BUILT_IN.check(&config).unwrap_err().to_string();
        assert!(
            message.contains("49408") && message.contains("1000"),
            "{message}"
        );
    }

    /// The text with some of it cut off, removed, replaced or doubled.
    fn garbled(text: String) -> impl Strategy<Value = Vec<u8>> {
        let bytes = text.into_bytes();
        let edit = (
            0..4u8,
            any::<prop::sample::Index>(),
            0..40usize,
            any::<u8>(),
        );
        prop::collection::vec(edit, 1..4).prop_map(move |edits| {
            let mut bytes = bytes.clone();
            for (kind, place, length, byte) in edits {
                let start = place.index(bytes.len() + 1);
                let end = bytes.len().min(start + length);
                match kind {
                    0 => bytes.truncate(start),
                    1 => drop(bytes.drain(start..end)),
                    2 => bytes[start..end].fill(byte),
                    _ => bytes.extend_from_within(start..end),
                }
            }
            bytes
        })
    }

    fn tiny_json() -> String {
        let tiny = fixtures().join("tiny");
        let ours = Tokenizer::from_files(tiny.join("vocab.json"), tiny.join("merges.txt"));
        ours.unwrap().inner.to_string(false).unwrap()
    }

    proptest! {
        #[test]
        fn every_text_has_tokens(text in any::<String>()) {
            let padded = BUILT_IN.encode_padded(&text);
            prop_assert_eq!(padded.len(), 77);
            prop_assert!(padded.iter().all(|&token| token < 49408));
            BUILT_IN.decode(&BUILT_IN.encode(&text));
        }

        #[test]
        fn all_numbers_decode(tokens in prop::collection::vec(any::<u32>(), 0..20)) {
            BUILT_IN.decode(&tokens);
        }

        #[test]
        fn garbled_files_are_errors(
            name in prop::sample::select(vec!["vocab.json", "merges.txt", "tokenizer.json", "tokenizer_config.json"]),
            index in any::<prop::sample::Index>(),
            seed in garbled(read(&fixtures().join("tiny/vocab.json")).unwrap()),
            merges in garbled(read(&fixtures().join("tiny/merges.txt")).unwrap()),
            json in garbled(tiny_json()),
            settings in garbled(json!({
                "model_max_length": 77, "pad_token": "!", "eos_token": {"content": "<|endoftext|>", "normalized": true},
                "added_tokens_decoder": {"600": {"content": "x", "lstrip": true, "single_word": true}},
            }).to_string()),
            text in any::<String>(),
        ) {
            let folder = tempfile::tempdir().unwrap();
            let tiny = fixtures().join("tiny");
            for file in ["vocab.json", "merges.txt"] {
                fs::copy(tiny.join(file), folder.path().join(file)).unwrap();
            }
            let all = [&seed, &merges, &json, &settings];
            let content = match name {
                "vocab.json" => all[0],
                "merges.txt" => all[1],
                "tokenizer.json" => all[2],
                _ => all[3],
            };
            fs::write(folder.path().join(name), content).unwrap();
            // Some changes leave a tokenizer, which has to work.
            if let Ok(ours) = Tokenizer::open(folder.path()) {
                prop_assert_eq!(ours.encode_padded(&text).len(), ours.model_max_length());
                ours.decode(&ours.encode(&text));
            }
            // What is cut short is an error.
            let whole = [seed, merges, json, settings].into_iter().nth(index.index(4)).unwrap();
            let cut = &whole[..whole.len() / 2];
            fs::write(folder.path().join("tokenizer.json"), cut).unwrap();
            prop_assert!(Tokenizer::open(folder.path()).is_err());
        }
    }
}
