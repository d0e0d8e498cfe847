//! The prompt grammar and the chunks against A1111's rules.

use std::num::NonZeroUsize;
use std::path::Path;
use std::sync::LazyLock;

use clip_text::{Chunk, Chunking, Prompt, Tokenizer};
use proptest::prelude::*;
use serde::Deserialize;

static BUILT_IN: LazyLock<Tokenizer> = LazyLock::new(Tokenizer::built_in);

fn tiny() -> std::path::PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/tiny")
}

fn tiny_tokenizer() -> Tokenizer {
    Tokenizer::from_files(tiny().join("vocab.json"), tiny().join("merges.txt")).unwrap()
}

#[track_caller]
fn assert_parts(text: &str, expected: &[(&str, f64)]) {
    let prompt = Prompt::parse(text);
    let parts: Vec<(&str, f64)> = prompt
        .parts()
        .iter()
        .map(|part| (part.text.as_str(), part.weight))
        .collect();
    assert_eq!(parts, expected, "{text:?}");
}

#[test]
fn weights_are_those_of_a1111() {
    assert_parts("normal text", &[("normal text", 1.0)]);
    assert_parts(
        "an (important) word",
        &[("an ", 1.0), ("important", 1.1), (" word", 1.0)],
    );
    assert_parts("(unbalanced", &[("unbalanced", 1.1)]);
    assert_parts("\\(literal\\]", &[("(literal]", 1.0)]);
    assert_parts("(unnecessary)(parens)", &[("unnecessaryparens", 1.1)]);
    assert_parts(
        "a (((house:1.3)) [on] a (hill:0.5), sun, (((sky))).",
        &[
            ("a ", 1.0),
            ("house", 1.573_000_000_000_000_4),
            (" ", 1.1),
            ("on", 1.0),
            (" a ", 1.1),
            ("hill", 0.55),
            (", sun, ", 1.1),
            ("sky", 1.464_100_000_000_000_6),
            (".", 1.1),
        ],
    );
    assert_parts("", &[("", 1.0)]);
    assert_parts("(mychar001:1.3)", &[("mychar001", 1.3)]);
    assert_parts("[x]", &[("x", 1.0 / 1.1)]);
    assert_parts("closed) too] early", &[("closed) too] early", 1.0)]);
    assert_parts("a: b :1.5) c", &[("a: b :1.5) c", 1.0)]);
    assert_parts("a BREAK b", &[("a", 1.0), ("BREAK", -1.0), ("b", 1.0)]);
    assert_parts("BREAKFAST", &[("BREAKFAST", 1.0)]);
}

#[test]
fn a_weight_that_is_no_number_is_text() {
    assert_parts("(a:1.2.3) b", &[("a:1.2.3", 1.1), (" b", 1.0)]);
    assert_parts("(a:.)", &[("a:.", 1.1)]);
    let huge = format!("(a:{})", "9".repeat(400));
    assert!(Prompt::parse(&huge).parts()[0].weight.is_finite());
}

#[derive(Deserialize)]
struct Reference {
    text: String,
    parts: Vec<(String, f64)>,
    chunks: Vec<Vec<(u32, f64)>>,
}

#[test]
fn parts_and_chunks_are_those_of_the_reference() {
    let text = std::fs::read_to_string(tiny().join("prompts.json")).unwrap();
    let cases: Vec<Reference> = serde_json::from_str(&text).unwrap();
    let tokenizer = tiny_tokenizer();
    assert!(cases.len() >= 20);
    for case in cases {
        let prompt = Prompt::parse(&case.text);
        assert_eq!(prompt.parts().len(), case.parts.len(), "{}", case.text);
        for (ours, (text, weight)) in prompt.parts().iter().zip(&case.parts) {
            assert_eq!(ours.text, *text);
            assert!(
                (ours.weight - weight).abs() < 1e-14,
                "{} {weight}",
                ours.weight
            );
        }
        let ours = prompt.chunks(&tokenizer, &Chunking::default());
        assert_eq!(ours.cut, "");
        assert_eq!(ours.chunks.len(), case.chunks.len(), "{}", case.text);
        for (ours, theirs) in ours.chunks.iter().zip(&case.chunks) {
            assert_eq!((ours.tokens.len(), ours.weights.len()), (77, 77));
            assert_eq!(ours.tokens[0], tokenizer.bos());
            assert!(
                ours.tokens[theirs.len() + 1..]
                    .iter()
                    .all(|&t| t == tokenizer.eos())
            );
            assert!(ours.weights[theirs.len() + 1..].iter().all(|&w| w == 1.0));
            for (i, &(token, weight)) in theirs.iter().enumerate() {
                assert_eq!(
                    (ours.tokens[i + 1], ours.weights[i + 1]),
                    (token, weight as f32)
                );
            }
        }
    }
}

#[test]
fn a_plain_prompt_is_the_padded_text() {
    for text in [
        "",
        "a cat, under a tree: red",
        "e\u{301} 東京 😀",
        "a<|endoftext|>b",
    ] {
        let chunks = Prompt::parse(text).chunks(&BUILT_IN, &Chunking::default());
        assert_eq!(chunks.chunks.len(), 1);
        assert_eq!(chunks.chunks[0].tokens, BUILT_IN.encode_padded(text));
        assert!(!chunks.chunks[0].is_weighted());
    }
    let literal = Prompt::literal("(a) [b] \\ BREAK");
    let chunks = literal.chunks(&BUILT_IN, &Chunking::default()).chunks;
    assert_eq!(chunks[0].tokens, BUILT_IN.encode_padded("(a) [b] \\ BREAK"));
    assert_eq!(
        Chunk::empty(&BUILT_IN, 77).tokens,
        BUILT_IN.encode_padded("")
    );
}

#[test]
fn what_falls_off_is_told() {
    let one = Chunking {
        max_chunks: NonZeroUsize::new(1),
        ..Default::default()
    };
    let text = format!("{}the End, of it", "cat, ".repeat(37));
    let chunks = Prompt::parse(&text).chunks(&BUILT_IN, &one);
    assert_eq!(chunks.chunks.len(), 1);
    assert_eq!(chunks.chunks[0].tokens, BUILT_IN.encode_padded(&text));
    assert_eq!(chunks.cut, "end , of it");

    let chunks = Prompt::parse("a BREAK (b BREAK c:1.2) BREAK d").chunks(&BUILT_IN, &one);
    assert_eq!(
        (chunks.chunks.len(), chunks.cut.as_str()),
        (1, "b break c d")
    );
    let chunks = Prompt::parse("a BREAK").chunks(&BUILT_IN, &one);
    assert_eq!((chunks.chunks.len(), chunks.cut.as_str()), (1, ""));
}

fn prompt_text() -> impl Strategy<Value = String> {
    let piece = prop_oneof![
        Just("(".to_owned()),
        Just(")".to_owned()),
        Just("[".to_owned()),
        Just("]".to_owned()),
        Just(":".to_owned()),
        Just(":1.3)".to_owned()),
        Just("\\".to_owned()),
        Just(" BREAK ".to_owned()),
        Just(", ".to_owned()),
        "[a-zé東 ]{0,12}",
        any::<String>(),
    ];
    prop::collection::vec(piece, 0..40).prop_map(|pieces| pieces.concat())
}

proptest! {
    #[test]
    fn no_word_is_lost(text in prompt_text()) {
        let words = |text: &str| text.chars().filter(|c| c.is_alphabetic()).collect::<String>();
        let parts: String = Prompt::parse(&text).parts().iter().map(|part| part.text.as_str()).collect();
        prop_assert_eq!(words(&parts), words(&text));
    }

    #[test]
    fn text_without_syntax_is_itself(text in "[^\\\\()\\[\\]:B]*") {
        let prompt = Prompt::parse(&text);
        prop_assert_eq!(prompt, Prompt::literal(&text));
    }

    #[test]
    fn chunks_hold_every_token(text in prompt_text(), positions in 3usize..90, comma_backtrack in 0usize..30, most in 0usize..4) {
        let prompt = Prompt::parse(&text);
        let chunking = Chunking { positions, comma_backtrack, max_chunks: NonZeroUsize::new(most) };
        let chunks = prompt.chunks(&BUILT_IN, &chunking);
        prop_assert!(!chunks.chunks.is_empty());
        prop_assert!(most == 0 || chunks.chunks.len() <= most);
        for chunk in &chunks.chunks {
            prop_assert_eq!((chunk.tokens.len(), chunk.weights.len()), (positions, positions));
        }
        if most == 0 && !text.contains('<') {
            let ours: Vec<u32> = chunks.chunks.iter().flat_map(|chunk| &chunk.tokens).copied().filter(|&t| t < 49406).collect();
            let all: Vec<u32> = prompt.parts().iter()
                .filter(|part| !(part.text == "BREAK" && part.weight == -1.0))
                .flat_map(|part| BUILT_IN.encode(&part.text)).collect();
            prop_assert_eq!(ours, all);
        }
    }
}
