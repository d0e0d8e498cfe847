//! Captions are read back as what they were made of, in the words of a closed language.

use std::collections::HashSet;

use samecast_pocket::puppet::{
    Angle, Character, Expression, Lighting, Outfit, Place, Sex, Shot, caption, read, shots,
    vocabulary,
};

/// Every shot there is, each with a seed of its own.
fn all_shots() -> impl Iterator<Item = Shot> {
    let angles = Angle::ALL.iter();
    let places = angles.flat_map(|a| Place::ALL.iter().map(move |p| (a, p)));
    let outfits = places.flat_map(|(a, p)| Outfit::ALL.iter().map(move |o| (a, p, o)));
    let looks = Expression::ALL.iter();
    let looks = looks.flat_map(|e| Lighting::ALL.iter().map(move |l| (e, l)));
    outfits
        .flat_map(move |(a, p, o)| looks.clone().map(move |(e, l)| (a, p, o, e, l)))
        .zip(0..)
        .map(|((a, p, o, e, l), seed)| Shot {
            angle: *a,
            expression: *e,
            lighting: *l,
            place: *p,
            outfit: *o,
            seed,
        })
}

#[test]
fn every_caption_is_read_back() {
    for shot in all_shots().step_by(7) {
        for sex in Sex::ALL {
            for trigger in [None, Some("mychar001"), Some("mira of the lake")] {
                let words = caption(*sex, &shot, trigger);
                let told = read(&words).unwrap_or_else(|error| panic!("{error}"));
                assert_eq!(told.shot(shot.seed), shot, "{words}");
                assert_eq!(
                    (told.sex, told.trigger.as_deref()),
                    (*sex, trigger),
                    "{words}"
                );
            }
        }
    }
}

#[test]
fn a_shot_is_said_in_several_ways() {
    let shot = Shot::random(3);
    let ways: HashSet<String> = (0..200)
        .map(|seed| caption(Sex::Man, &Shot { seed, ..shot }, None))
        .collect();
    assert!(ways.len() >= 20, "{}", ways.len());
}

#[test]
fn the_language_is_closed_and_small() {
    let known: HashSet<&str> = vocabulary().into_iter().collect();
    assert!(known.len() < 150, "{} words", known.len());
    let mut used = HashSet::new();
    for shot in all_shots().step_by(11) {
        for sex in Sex::ALL {
            let words = caption(*sex, &shot, None);
            for word in words.split([' ', ',']).filter(|word| !word.is_empty()) {
                let known = known
                    .get(word)
                    .unwrap_or_else(|| panic!("{word} in {words}"));
                used.insert(*known);
            }
        }
    }
    let unused: Vec<_> = known.difference(&used).collect();
    assert!(unused.is_empty(), "{unused:?}");
}

#[test]
fn captions_do_not_tell_who_it_is() {
    // Two men in the same shot have the same words.
    let men: Vec<Character> = (0..20)
        .map(|seed| Character::with_sex(seed, Sex::Man))
        .collect();
    for shot in shots(20, 1) {
        let words: HashSet<String> = men
            .iter()
            .map(|man| caption(man.sex, &shot, None))
            .collect();
        assert_eq!(words.len(), 1);
    }
}
