use std::collections::BTreeMap;
use std::path::Path;

use ahash::AHashMap;
use instant_clip_tokenizer::{Token, Tokenizer as OpenAi};

use crate::error::{Error, Result};
use crate::tokenizer::{END_OF_TEXT, START_OF_TEXT};

/// Largest token number that is believed: far beyond every vocabulary, and far from overflow.
const MAX_TOKEN: u32 = 1 << 24;

/// A byte-pair table: the number of each token, and the pairs in the order in which they are merged.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Table {
    pub(crate) vocab: BTreeMap<String, u32>,
    pub(crate) merges: Vec<(String, String)>,
}

impl Table {
    /// Reads `merges.txt`: a pair a line, after a version line.
    pub(crate) fn parse_merges(text: &str, path: &Path) -> Result<Vec<(String, String)>> {
        text.lines()
            .filter(|line| !line.starts_with("#version") && !line.is_empty())
            .enumerate()
            .map(|(i, line)| Self::parse_merge(line, i + 1, path))
            .collect()
    }

    pub(crate) fn parse_merge(line: &str, number: usize, path: &Path) -> Result<(String, String)> {
        match line.split_once(' ') {
            Some((first, second)) if !second.contains(' ') => Ok((first.into(), second.into())),
            _ => Err(Error::Merge {
                path: path.into(),
                number,
                found: line.into(),
                expected: "two tokens with a space between".into(),
            }),
        }
    }

    /// Checks that the vocabulary knows both halves of each merge and what they make.
    pub(crate) fn check(&self, path: &Path) -> Result<()> {
        if let Some((token, number)) = self.vocab.iter().find(|(_, number)| **number > MAX_TOKEN) {
            return Err(Error::Value {
                path: path.into(),
                key: token.clone(),
                found: number.to_string(),
                expected: format!("a token's number, at most {MAX_TOKEN}"),
            });
        }
        for (i, (first, second)) in self.merges.iter().enumerate() {
            for token in [first, second, &format!("{first}{second}")] {
                if !self.vocab.contains_key(token) {
                    return Err(Error::Merge {
                        path: path.into(),
                        number: i + 1,
                        found: format!("{first} {second}"),
                        expected: format!("tokens of the vocabulary, which has no `{token}`"),
                    });
                }
            }
        }
        Ok(())
    }

    /// OpenAI's table, read back from the crate that carries it.
    ///
    /// That crate's own `encode` neither composes accents nor knows `<|endoftext|>`, and its table is private. But it decodes, and the
    /// merges follow from the tokens: token *n* is the pair that the merges before *n* leave of its characters.
    pub(crate) fn built_in() -> Self {
        let source = OpenAi::new();
        let bytes = byte_order();
        // Each character of the byte alphabet, then each once more as the end of a word.
        let mut strings: Vec<String> = bytes.iter().map(|(_, c)| c.to_string()).collect();
        strings.extend(bytes.iter().map(|(_, c)| format!("{c}</w>")));
        let mut token_of = [0; 256];
        for (token, &(byte, _)) in (0..).zip(&bytes) {
            token_of[usize::from(byte)] = token;
        }
        let specials = u32::from(source.start_of_text().to_u16());
        let mut ranks = AHashMap::new();
        let mut merges = Vec::new();
        for token in strings.len() as u32..specials {
            let (content, end) = decode(&source, token, &token_of);
            let mut pieces: Vec<u32> = content
                .iter()
                .map(|&byte| token_of[usize::from(byte)])
                .collect();
            if let Some(last) = pieces.last_mut().filter(|_| end) {
                *last += 256;
            }
            merge(&mut pieces, &ranks);
            let [first, second] = pieces[..] else {
                unreachable!("token {token} is the merge of two earlier ones");
            };
            ranks.insert((first, second), token);
            let (first, second) = (&strings[first as usize], &strings[second as usize]);
            merges.push((first.clone(), second.clone()));
            strings.push(format!("{first}{second}"));
        }
        strings.extend([START_OF_TEXT.into(), END_OF_TEXT.into()]);
        Self {
            vocab: strings.into_iter().zip(0..).collect(),
            merges,
        }
    }
}

/// Replaces neighbours by their merge, the earliest merge first, until none is left.
fn merge(pieces: &mut Vec<u32>, ranks: &AHashMap<(u32, u32), u32>) {
    while let Some((token, pair)) = pieces
        .windows(2)
        .filter_map(|pair| Some((*ranks.get(&(pair[0], pair[1]))?, [pair[0], pair[1]])))
        .min()
    {
        let mut i = 0;
        while i + 1 < pieces.len() {
            if pieces[i..i + 2] == pair {
                pieces[i] = token;
                pieces.remove(i + 1);
            }
            i += 1;
        }
    }
}

/// The bytes of a token, and whether it ends a word.
///
/// The crate decodes to a string, in which part of a character would be lost; so the bytes that complete it are put around the token.
fn decode(source: &OpenAi, token: u32, token_of: &[u32; 256]) -> (Vec<u8>, bool) {
    // What may be missing before a token that begins inside a character; any continuation byte may follow these.
    const BEFORE: [&[u8]; 6] = [
        b"",
        b"\xC2",
        b"\xE1",
        b"\xE1\x80",
        b"\xF1\x80",
        b"\xF1\x80\x80",
    ];
    // What may be missing behind one that ends inside a character; the first byte depends on the one before.
    const BEHIND: [&[u8]; 8] = [
        b"",
        b"\x80",
        b"\xA0",
        b"\x80\x80",
        b"\xA0\x80",
        b"\x90\x80",
        b"\x80\x80\x80",
        b"\x90\x80\x80",
    ];
    let wrap = |before: &[u8], behind: &[u8]| {
        let single = |&byte: &u8| token_of[usize::from(byte)];
        let tokens = before
            .iter()
            .map(single)
            .chain([token])
            .chain(behind.iter().map(single));
        source.decode(tokens.filter_map(|t| Token::from_u16(t as u16, source)))
    };
    for before in BEFORE {
        for behind in BEHIND {
            let text = wrap(before, behind);
            if !text.contains(char::REPLACEMENT_CHARACTER) {
                let content = &text.as_bytes()[before.len()..text.len() - behind.len()];
                // A space is the end of a word: no token holds one.
                let end = content.last() == Some(&b' ');
                return (content[..content.len() - usize::from(end)].to_vec(), end);
            }
        }
    }
    // The replacement character itself.
    let text = wrap(b"", b"");
    let content = text.trim_end_matches(' ');
    (content.into(), content.len() < text.len())
}

/// The bytes in the order of their tokens, with the character that stands for each: first those that print, then the rest as U+0100 and on.
fn byte_order() -> Vec<(u8, char)> {
    let prints = |byte: &u8| matches!(byte, b'!'..=b'~' | 0xA1..=0xAC | 0xAE..=0xFF);
    let printing = (0..=u8::MAX)
        .filter(prints)
        .map(|byte| (byte, char::from(byte)));
    let others = (0..=u8::MAX).filter(|byte| !prints(byte)).zip('\u{100}'..);
    printing.chain(others).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tokenizer::tests::{Tokens, fnv};

    #[test]
    fn the_built_in_table_is_openais() {
        let table = Table::built_in();
        assert_eq!((table.vocab.len(), table.merges.len()), (49408, 48894));
        let lines: Vec<String> = table
            .merges
            .iter()
            .map(|(a, b)| format!("{a} {b}"))
            .collect();
        assert_eq!(fnv(lines.join("\n").as_bytes()), Tokens::open().merges_fnv);
        assert_eq!(table.vocab["!"], 0);
        assert_eq!(table.vocab["the</w>"], 518);
        assert_eq!(table.vocab[END_OF_TEXT], 49407);
        table.check(Path::new("")).unwrap();
    }

    #[test]
    fn a_merge_names_its_line() {
        let merges = Table::parse_merges("#version: 0.2\na b\n\nab\n", Path::new("merges.txt"));
        let message = merges.unwrap_err().to_string();
        assert!(
            message.contains("merge 2") && message.contains("\"ab\""),
            "{message}"
        );

        let table = Table {
            vocab: BTreeMap::from([("a".into(), 0), ("b".into(), 1)]),
            merges: vec![("a".into(), "b".into())],
        };
        let message = table
            .check(Path::new("merges.txt"))
            .unwrap_err()
            .to_string();
        assert!(message.contains("has no `ab`"), "{message}");
    }
}
