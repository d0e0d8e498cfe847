use crate::puppet::{Beard, Character, Color, Cut, Jewel, Lenses, Mole, Scar};

/// How many values each kind of trait has, with none where there may be none: cut, beard, glasses, mole, scar, earrings.
pub(super) const KINDS: [usize; 6] = [24, 6, 4, 5, 5, 4];
/// How many traits are numbers.
pub(super) const NUMBERS: usize = 38;

/// Which value of each kind a character has, in the order of [`KINDS`].
pub(super) fn kinds(character: &Character) -> [usize; 6] {
    let cuts = [Cut::WOMEN, Cut::MEN].concat();
    let cut = cuts.iter().position(|&cut| cut == character.hair.cut);
    let beard = match character.beard {
        Beard::None => 0,
        Beard::Stubble => 1,
        Beard::Moustache => 2,
        Beard::Goatee => 3,
        Beard::Short => 4,
        Beard::Long => 5,
    };
    let glasses = character.glasses.map_or(0, |glasses| match glasses.shape {
        Lenses::Round => 1,
        Lenses::Square => 2,
        Lenses::CatEye => 3,
    });
    let mole = character.mole.map_or(0, |mole| match mole {
        Mole::LeftEye => 1,
        Mole::RightEye => 2,
        Mole::LeftMouth => 3,
        Mole::RightMouth => 4,
    });
    let scar = character.scar.map_or(0, |scar| match scar {
        Scar::LeftBrow => 1,
        Scar::RightBrow => 2,
        Scar::LeftCheek => 3,
        Scar::RightCheek => 4,
    });
    let earrings = character
        .earrings
        .map_or(0, |earrings| match earrings.shape {
            Jewel::Stud => 1,
            Jewel::Hoop => 2,
            Jewel::Drop => 3,
        });
    let cut = cut.expect("every cut is one of the women's or the men's");
    [cut, beard, glasses, mole, scar, earrings]
}

/// A character's traits that are numbers, each about zero and of about the same spread.
pub(super) fn numbers(character: &Character) -> [f32; NUMBERS] {
    let mut all = [0.0; NUMBERS];
    let mut rest = all.iter_mut();
    let mut put = |value: f32| *rest.next().expect("room for every number") = value;
    let mut color = |color: Option<Color>| {
        // What is not there has the colour of nothing.
        let parts = color.map_or([0.0; 3], |c| [c.r, c.g, c.b].map(|part| (part - 0.5) * 4.0));
        parts.into_iter().for_each(&mut put);
    };
    color(Some(character.skin));
    color(Some(character.hair.color));
    color(character.hair.streak);
    color(Some(character.eyes.color));
    color(Some(character.mouth.color));
    color(character.glasses.map(|glasses| glasses.color));
    let (face, brows, eyes) = (character.face, character.brows, character.eyes);
    let (nose, mouth, hair) = (character.nose, character.mouth, character.hair);
    let signed = [
        face.width,
        face.jaw,
        face.chin,
        face.length,
        brows.thickness,
        brows.arch,
        brows.slant,
        eyes.size,
        eyes.roundness,
        eyes.slant,
        eyes.spacing,
        nose.length,
        nose.width,
        nose.bridge,
        nose.tip,
        mouth.width,
        mouth.fullness,
        hair.volume,
        hair.side,
        character.freckles * 2.0 - 0.5,
    ];
    signed.into_iter().for_each(|value| put(value * 1.5));
    assert!(
        rest.next().is_none(),
        "as many numbers as there is room for"
    );
    all
}
