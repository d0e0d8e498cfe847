use std::path::PathBuf;

/// What can be wrong with a tokenizer's or a text encoder's files.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// A file cannot be read, or is not UTF-8 text.
    #[error("{}: cannot be read as text; check that it exists and was downloaded whole", path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// Why.
        #[source]
        source: std::io::Error,
    },
    /// A file is not the JSON it should be.
    #[error("{}: expected {expected}; the file may be cut short or be of another kind", path.display())]
    Json {
        /// The file.
        path: PathBuf,
        /// What it should hold.
        expected: &'static str,
        /// Where and why reading stopped.
        #[source]
        source: serde_json::Error,
    },
    /// A value that no CLIP model or tokenizer can have.
    #[error("{}: `{key}` is {found}, expected {expected}", path.display())]
    Value {
        /// The file.
        path: PathBuf,
        /// The key in it.
        key: String,
        /// What stands there.
        found: String,
        /// What may stand there.
        expected: String,
    },
    /// A line of `merges.txt`, or an entry of `tokenizer.json`'s merges, does not fit the vocabulary.
    #[error("{}: merge {number} is {found:?}, expected {expected}; do vocabulary and merges belong together?", path.display())]
    Merge {
        /// The file.
        path: PathBuf,
        /// Which merge, counted from 1, without the version line.
        number: usize,
        /// The merge as it stands there.
        found: String,
        /// What a merge has to be.
        expected: String,
    },
    /// A token that the tokenizer's settings name is not in its vocabulary.
    #[error("{}: the vocabulary has no `{token}`, which `{key}` names; are the files of the same CLIP tokenizer?", path.display())]
    Token {
        /// The file that holds the vocabulary.
        path: PathBuf,
        /// Which setting.
        key: &'static str,
        /// The token.
        token: String,
    },
    /// A folder without a tokenizer.
    #[error("{}: expected `tokenizer.json`, or `vocab.json` with `merges.txt`; found neither", folder.display())]
    NoTokenizer {
        /// The folder.
        folder: PathBuf,
    },
    /// The tokenizer makes tokens for which the text encoder has no embedding.
    #[error(
        "the tokenizer has {tokenizer} tokens and the text encoder's `vocab_size` is {model}; use the tokenizer that came with it"
    )]
    Vocabulary {
        /// Tokens of the tokenizer.
        tokenizer: usize,
        /// Rows of the text encoder's token embedding.
        model: usize,
    },
    /// The `tokenizers` crate refused a table that passed every check here.
    #[error("{}: the byte-pair table cannot be used", path.display())]
    Table {
        /// The file.
        path: PathBuf,
        /// Why.
        #[source]
        source: Box<dyn std::error::Error + Send + Sync>,
    },
}

/// A result with this crate's [`Error`].
pub type Result<T> = std::result::Result<T, Error>;
