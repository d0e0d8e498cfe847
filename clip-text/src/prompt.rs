use std::num::NonZeroUsize;

use crate::tokenizer::Tokenizer;

const ROUND: f64 = 1.1;
const SQUARE: f64 = 1.0 / 1.1;
const BREAK: &str = "BREAK";
const BREAK_WEIGHT: f64 = -1.0;

/// A stretch of a prompt and how strongly it counts.
#[derive(Debug, Clone, PartialEq)]
pub struct Weighted {
    /// The text, without brackets, weights and escapes.
    pub text: String,
    /// What its tokens' hidden states are multiplied by; 1 for plain text. The text `BREAK` with weight −1 starts a new chunk.
    pub weight: f64,
}

/// A prompt in A1111's grammar, taken apart.
///
/// | written | means |
/// |---|---|
/// | `(x)`, `((x))` | weight 1.1, 1.21 |
/// | `(x:1.3)` | weight 1.3, times that of the brackets around it |
/// | `[x]` | weight 1 / 1.1 |
/// | `\(` `\)` `\[` `\]` `\\` | the character itself |
/// | `BREAK` | the rest goes into a new chunk |
///
/// An opening bracket that nobody closes counts to the end of the prompt, a closing one that nobody opened is text. Every string is a
/// prompt. As in A1111, `BREAK` inside brackets is multiplied with them and is a word like any other; and a backslash before any other
/// character is dropped. Unlike A1111, which gives up there, a weight such as `1.2.3` that is no number is text.
///
/// ```
/// use clip_text::Prompt;
///
/// let prompt = Prompt::parse("a (red:1.3) cat");
/// let weights: Vec<f64> = prompt.parts().iter().map(|part| part.weight).collect();
/// assert_eq!(weights, [1.0, 1.3, 1.0]);
/// ```
#[derive(Debug, Clone, PartialEq)]
pub struct Prompt {
    parts: Vec<Weighted>,
}

impl Prompt {
    /// Reads a prompt in A1111's grammar.
    pub fn parse(text: &str) -> Self {
        let mut parts = Vec::new();
        // Where in `parts` the brackets begin that are open now.
        let (mut round, mut square) = (Vec::new(), Vec::new());
        let mut rest = text;
        while let Some((lexeme, length)) = lex(rest) {
            let written = &rest[..length];
            rest = &rest[length..];
            match lexeme {
                Lexeme::Escaped(text) => push(&mut parts, text, 1.0),
                Lexeme::OpenRound => round.push(parts.len()),
                Lexeme::OpenSquare => square.push(parts.len()),
                Lexeme::Weight(weight) if !round.is_empty() => {
                    multiply(&mut parts, round.pop(), weight)
                }
                Lexeme::CloseRound if !round.is_empty() => multiply(&mut parts, round.pop(), ROUND),
                Lexeme::CloseSquare if !square.is_empty() => {
                    multiply(&mut parts, square.pop(), SQUARE)
                }
                Lexeme::Text | Lexeme::Weight(_) | Lexeme::CloseRound | Lexeme::CloseSquare => {
                    for (i, text) in split_breaks(written).into_iter().enumerate() {
                        if i > 0 {
                            push(&mut parts, BREAK, BREAK_WEIGHT);
                        }
                        push(&mut parts, text, 1.0);
                    }
                }
            }
        }
        for start in round {
            multiply(&mut parts, Some(start), ROUND);
        }
        for start in square {
            multiply(&mut parts, Some(start), SQUARE);
        }
        Self {
            parts: merged(parts),
        }
    }

    /// The text as it is, with brackets and backslashes in it, at weight 1: what the peers without a prompt grammar read.
    pub fn literal(text: &str) -> Self {
        Self {
            parts: vec![Weighted {
                text: text.to_owned(),
                weight: 1.0,
            }],
        }
    }

    /// The parts, in order; neighbours differ in weight. There is at least one.
    pub fn parts(&self) -> &[Weighted] {
        &self.parts
    }

    /// Cuts the prompt into chunks as long as the text encoder reads at once, as A1111 does: each part is tokenized by itself, and where a
    /// chunk is full and its last comma lies no more than `comma_backtrack` tokens back, what follows the comma moves to the next chunk.
    ///
    /// A plain prompt that fits one chunk gives the tokens of [`Tokenizer::encode_padded`]. There is always at least one chunk.
    ///
    /// # Panics
    /// If `chunking.positions` is below 3: a chunk is a start, a token and an end.
    pub fn chunks(&self, tokenizer: &Tokenizer, chunking: &Chunking) -> Chunks {
        assert!(
            chunking.positions >= 3,
            "a chunk of {} positions holds no token",
            chunking.positions
        );
        let length = chunking.positions - 2;
        let most = chunking.max_chunks.map_or(usize::MAX, NonZeroUsize::get);
        let comma = tokenizer.comma();
        let mut full: Vec<Vec<(u32, f32)>> = Vec::new();
        let mut chunk: Vec<(u32, f32)> = Vec::new();
        let mut last_comma = None;
        let mut cut = Vec::new();

        for part in &self.parts {
            if part.text == BREAK && part.weight == BREAK_WEIGHT {
                if full.len() < most {
                    full.push(std::mem::take(&mut chunk));
                }
                last_comma = None;
                continue;
            }
            for token in tokenizer.encode(&part.text) {
                if Some(token) == comma {
                    last_comma = Some(chunk.len());
                } else if let Some(comma) = last_comma
                    && chunk.len() == length
                    && length - comma <= chunking.comma_backtrack
                    && full.len() + 1 < most
                {
                    let moved = chunk.split_off(comma + 1);
                    full.push(std::mem::replace(&mut chunk, moved));
                    last_comma = None;
                }
                if chunk.len() == length {
                    full.push(std::mem::take(&mut chunk));
                    last_comma = None;
                }
                if full.len() < most {
                    chunk.push((token, part.weight as f32));
                } else {
                    cut.push(token);
                }
            }
        }
        if !chunk.is_empty() || full.is_empty() {
            full.push(chunk);
        }
        Chunks {
            chunks: full
                .into_iter()
                .map(|tokens| Chunk::new(tokens, tokenizer, chunking.positions))
                .collect(),
            cut: tokenizer.decode(&cut),
        }
    }
}

/// How a prompt is cut into chunks.
#[derive(Debug, Clone, PartialEq)]
pub struct Chunking {
    /// Positions of a chunk, with its start and its end: 77 for Stable Diffusion, which leaves 75 tokens.
    pub positions: usize,
    /// How far back from a chunk's end, in tokens, a comma may lie for the text behind it to move to the next chunk; 0 for never.
    pub comma_backtrack: usize,
    /// No more chunks than this: what does not fit is cut off and reported. The last chunk is then filled to the end, commas or not.
    pub max_chunks: Option<NonZeroUsize>,
}

impl Default for Chunking {
    /// A1111's: 77 positions, 20 tokens back to a comma, as many chunks as the prompt needs.
    fn default() -> Self {
        Self {
            positions: 77,
            comma_backtrack: 20,
            max_chunks: None,
        }
    }
}

/// A prompt cut into chunks.
#[derive(Debug, Clone, PartialEq)]
pub struct Chunks {
    /// The chunks, at least one.
    pub chunks: Vec<Chunk>,
    /// The text behind the last chunk, as the tokenizer writes it; empty where everything fits.
    pub cut: String,
}

/// What the text encoder reads at once, and the weight of each token.
#[derive(Debug, Clone, PartialEq)]
pub struct Chunk {
    /// `[positions]`: start, text, end, padding.
    pub tokens: Vec<u32>,
    /// `[positions]`: 1 but for weighted text.
    pub weights: Vec<f32>,
}

impl Chunk {
    /// A chunk without text, as an empty prompt has it.
    pub fn empty(tokenizer: &Tokenizer, positions: usize) -> Self {
        Self::new(Vec::new(), tokenizer, positions)
    }

    /// Whether some weight differs from 1.
    pub fn is_weighted(&self) -> bool {
        self.weights.iter().any(|&weight| weight != 1.0)
    }

    fn new(text: Vec<(u32, f32)>, tokenizer: &Tokenizer, positions: usize) -> Self {
        let (mut tokens, mut weights) = (vec![tokenizer.bos()], vec![1.0]);
        for (token, weight) in text {
            tokens.push(token);
            weights.push(weight);
        }
        tokens.push(tokenizer.eos());
        tokens.resize(positions, tokenizer.pad());
        weights.resize(positions, 1.0);
        Self { tokens, weights }
    }
}

enum Lexeme<'a> {
    Escaped(&'a str),
    OpenRound,
    OpenSquare,
    CloseRound,
    CloseSquare,
    /// `:1.3)`
    Weight(f64),
    Text,
}

/// The first lexeme of `rest` and its length in bytes; `None` at the end.
fn lex(rest: &str) -> Option<(Lexeme<'_>, usize)> {
    let first = rest.chars().next()?;
    Some(match first {
        '\\' => match rest[1..].chars().next() {
            Some('(' | ')' | '[' | ']' | '\\') => (Lexeme::Escaped(&rest[1..2]), 2),
            _ => (Lexeme::Escaped(""), 1),
        },
        '(' => (Lexeme::OpenRound, 1),
        '[' => (Lexeme::OpenSquare, 1),
        ')' => (Lexeme::CloseRound, 1),
        ']' => (Lexeme::CloseSquare, 1),
        ':' => match weight(rest) {
            Some((weight, length)) => (Lexeme::Weight(weight), length),
            None => (Lexeme::Text, 1),
        },
        _ => {
            let syntax = ['\\', '(', ')', '[', ']', ':'];
            (Lexeme::Text, rest.find(syntax).unwrap_or(rest.len()))
        }
    })
}

/// Reads `: number )` at the beginning of `rest`: the number and the length in bytes.
fn weight(rest: &str) -> Option<(f64, usize)> {
    let number = rest.strip_prefix(':')?.trim_start_matches(is_space);
    let unsigned = number.strip_prefix(['+', '-']).unwrap_or(number);
    let behind = unsigned.trim_start_matches(|c: char| c == '.' || c.is_ascii_digit());
    let end = behind.trim_start_matches(is_space).strip_prefix(')')?;
    let weight: f64 = number[..number.len() - behind.len()].parse().ok()?;
    weight
        .is_finite()
        .then_some((weight, rest.len() - end.len()))
}

/// The texts between the words `BREAK`, without the white space around those.
fn split_breaks(text: &str) -> Vec<&str> {
    let mut parts = Vec::new();
    let (mut start, mut search) = (0, 0);
    while let Some(found) = text[search..].find(BREAK) {
        let (begin, end) = (search + found, search + found + BREAK.len());
        let inside = text[..begin].chars().next_back().is_some_and(is_word)
            || text[end..].chars().next().is_some_and(is_word);
        search = end;
        if inside {
            continue;
        }
        // The space behind the word before may be the space that this one would take.
        parts.push(text[start..begin].trim_end_matches(is_space));
        start = text.len() - text[end..].trim_start_matches(is_space).len();
        search = start;
    }
    parts.push(&text[start..]);
    parts
}

/// `\s` of the reference's regular expressions, which counts the four information separators.
fn is_space(c: char) -> bool {
    c.is_whitespace() || ('\u{1c}'..='\u{1f}').contains(&c)
}

/// `\w` of the reference's regular expressions.
fn is_word(c: char) -> bool {
    c.is_alphanumeric() || c == '_'
}

fn push(parts: &mut Vec<Weighted>, text: &str, weight: f64) {
    parts.push(Weighted {
        text: text.to_owned(),
        weight,
    });
}

fn multiply(parts: &mut [Weighted], start: Option<usize>, weight: f64) {
    for part in start
        .and_then(|start| parts.get_mut(start..))
        .unwrap_or_default()
    {
        part.weight *= weight;
    }
}

/// Joins neighbours of the same weight; an empty prompt becomes one empty part.
fn merged(parts: Vec<Weighted>) -> Vec<Weighted> {
    let mut joined: Vec<Weighted> = Vec::new();
    for part in parts {
        match joined.last_mut() {
            Some(last) if last.weight == part.weight => last.text.push_str(&part.text),
            _ => joined.push(part),
        }
    }
    if joined.is_empty() {
        push(&mut joined, "", 1.0);
    }
    joined
}
