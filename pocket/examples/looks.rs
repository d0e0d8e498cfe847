//! Contact sheets of all that the puppet can draw, for whoever changes how it draws:
//!
//! ```sh
//! cargo run --release -p samecast-pocket --example looks -- /tmp/looks 192 0
//! ```
//!
//! writes `angles.png`, `expressions.png`, `lightings.png`, `places.png`, `outfits.png`, `cuts.png`, `people.png` and `any.png` at 192
//! pixels a picture, with the characters from number 0 on.

use std::error::Error;
use std::path::Path;

use image::{GenericImage, RgbImage};
use samecast_pocket::puppet::{
    Angle, Character, Cut, Expression, Lighting, Outfit, Place, Sex, Shot, draw,
};

const SHOT: Shot = Shot {
    angle: Angle::Front,
    expression: Expression::Neutral,
    lighting: Lighting::Natural,
    place: Place::White,
    outfit: Outfit::Hoodie,
    seed: 0,
};

fn main() -> Result<(), Box<dyn Error>> {
    let mut args = std::env::args().skip(1);
    let folder = args.next().ok_or("looks FOLDER [SIZE [FIRST]]")?;
    let size: u32 = args.next().map_or(Ok(192), |size| size.parse())?;
    let first: u64 = args.next().map_or(Ok(0), |first| first.parse())?;
    let folder = Path::new(&folder);
    std::fs::create_dir_all(folder)?;

    let people: Vec<Character> = (first..first + 4).map(Character::from_seed).collect();
    let sheet = |name: &str, columns: usize, pictures: Vec<(Character, Shot)>| {
        let rows = pictures.len().div_ceil(columns) as u32;
        let mut sheet = RgbImage::new(columns as u32 * size, rows * size);
        for (i, (character, shot)) in pictures.iter().enumerate() {
            let (x, y) = ((i % columns) as u32 * size, (i / columns) as u32 * size);
            sheet.copy_from(&draw(character, shot, size), x, y)?;
        }
        sheet.save(folder.join(name))
    };
    let each = |shots: Vec<Shot>| -> Vec<(Character, Shot)> {
        let rows = people.iter();
        rows.flat_map(|character| shots.iter().map(|shot| (character.clone(), *shot)))
            .collect()
    };
    let shots = |of: fn(usize) -> Option<Shot>| -> Vec<Shot> {
        let shots = (0..).map_while(of).zip(0..);
        shots.map(|(shot, seed)| Shot { seed, ..shot }).collect()
    };

    sheet(
        "angles.png",
        7,
        each(shots(|i| {
            let angle = *Angle::ALL.get(i)?;
            Some(Shot { angle, ..SHOT })
        })),
    )?;
    for (name, angle) in [
        ("expressions.png", Angle::Front),
        ("expressions-left.png", Angle::ThreeQuarterLeft),
        ("expressions-profile.png", Angle::ProfileRight),
    ] {
        let mut row = shots(|i| {
            let expression = *Expression::ALL.get(i)?;
            Some(Shot { expression, ..SHOT })
        });
        row.iter_mut().for_each(|shot| shot.angle = angle);
        sheet(name, 5, each(row))?;
    }
    sheet(
        "lightings.png",
        5,
        each(shots(|i| {
            let lighting = *Lighting::ALL.get(i)?;
            Some(Shot { lighting, ..SHOT })
        })),
    )?;
    sheet(
        "places.png",
        8,
        each(shots(|i| {
            let place = *Place::ALL.get(i)?;
            Some(Shot { place, ..SHOT })
        })),
    )?;
    sheet(
        "outfits.png",
        8,
        each(shots(|i| {
            let outfit = *Outfit::ALL.get(i)?;
            let angle = Angle::ALL[i % Angle::ALL.len()];
            Some(Shot {
                outfit,
                angle,
                ..SHOT
            })
        })),
    )?;

    let mut cuts = vec![];
    for (sex, all) in [(Sex::Woman, Cut::WOMEN), (Sex::Man, Cut::MEN)] {
        for (cut, seed) in all.iter().zip(first..) {
            let mut character = Character::with_sex(seed, sex);
            character.hair.cut = *cut;
            for angle in [
                Angle::Front,
                Angle::ThreeQuarterRight,
                Angle::ProfileLeft,
                Angle::Above,
            ] {
                cuts.push((
                    character.clone(),
                    Shot {
                        angle,
                        seed,
                        ..SHOT
                    },
                ));
            }
        }
    }
    sheet("cuts.png", 8, cuts)?;
    let front = |seed| (Character::from_seed(seed), Shot { seed, ..SHOT });
    sheet("people.png", 10, (first..first + 50).map(front).collect())?;
    let any = |seed| (Character::from_seed(seed), Shot::random(seed));
    sheet("any.png", 10, (first..first + 50).map(any).collect())?;
    Ok(())
}
