//! What a picture of the puppet promises: the same bytes everywhere, words that show, characters that can be told apart.

use image::RgbImage;
use image::imageops::{FilterType, resize};
use samecast_pocket::puppet::{
    Angle, Attention, Beard, Character, Color, Cut, Earrings, Easel, Expression, FaceBox, Glasses,
    HELD_OUT, Jewel, Lenses, Lighting, Mole, Outfit, Place, SIZES, Scar, Sex, Shot, TRAINING, draw,
    face_box, importance,
};

const SHOT: Shot = Shot {
    angle: Angle::Front,
    expression: Expression::Neutral,
    lighting: Lighting::Natural,
    place: Place::Grey,
    outfit: Outfit::Shirt,
    seed: 5,
};

/// The usual shot from another side, with another look.
fn look(angle: Angle, expression: Expression) -> Shot {
    Shot {
        angle,
        expression,
        ..SHOT
    }
}

/// Mean of the differences of two pictures' bytes.
fn difference(a: &RgbImage, b: &RgbImage) -> f64 {
    let sum: u64 = a
        .iter()
        .zip(b.iter())
        .map(|(a, b)| u64::from(a.abs_diff(*b)))
        .sum();
    sum as f64 / a.len() as f64
}

/// The part of a picture within a box.
fn within(picture: &RgbImage, area: FaceBox) -> RgbImage {
    image::imageops::crop_imm(picture, area.left, area.top, area.side, area.side).to_image()
}

/// FNV-1a of a picture's bytes.
fn hash(picture: &RgbImage) -> u64 {
    picture.iter().fold(0xcbf2_9ce4_8422_2325, |hash, byte| {
        (hash ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01b3)
    })
}

/// The largest mean difference of any 6 × 6 pixels: what an eye falls on.
fn most_different_spot(a: &RgbImage, b: &RgbImage) -> f64 {
    let spot = |x, y| {
        let crop = |p: &RgbImage| image::imageops::crop_imm(p, x, y, 6, 6).to_image();
        difference(&crop(a), &crop(b))
    };
    let steps = |length: u32| (0..=length - 6).step_by(3);
    let spots = steps(a.width()).flat_map(|x| steps(a.height()).map(move |y| (x, y)));
    spots.map(|(x, y)| spot(x, y)).fold(0.0, f64::max)
}

#[test]
fn the_same_arguments_give_the_same_bytes_on_every_machine() {
    let cases = [
        (0, 0, 96),
        (7, 1, 96),
        (12, 2, 64),
        (1_000_003, 3, 128),
        (42, 4, 200),
    ];
    let found = cases.map(|(character, shot, size)| {
        let character = Character::from_seed(character);
        hash(&draw(&character, &Shot::random(shot), size))
    });
    // Also on WebAssembly, in builds with and without optimisation, and with every instruction of a newer processor.
    let expected = [
        0xc3951bca6faff90f,
        0x034404a108c66f4a,
        0xb26e15a5c09a4572,
        0xac2e42b71192573c,
        0xcd128fa6769034ce,
    ];
    assert_eq!(found, expected, "{found:#x?}");
}

#[test]
fn an_easel_that_was_used_draws_like_a_new_one() {
    let mut easel = Easel::default();
    let mut picture = RgbImage::new(96, 96);
    for seed in 0..12 {
        // Another size between, so that nothing of it may stay.
        let (character, shot) = (Character::from_seed(seed), Shot::random(seed));
        easel.draw_into(&character, &shot, 80, &mut RgbImage::new(80, 80));
        easel.draw_into(&character, &shot, 96, &mut picture);
        assert_eq!(picture, draw(&character, &shot, 96), "{shot:?}");
    }
}

#[test]
fn an_easel_can_go_to_another_thread() {
    fn send<T: Send>() {}
    send::<Easel>();
}

#[test]
fn anybody_can_be_drawn_in_any_shot_and_size() {
    let mut easel = Easel::default();
    for seed in 0..150_u64 {
        let size = SIZES.start() + (seed as u32 * 37) % 129;
        let mut picture = RgbImage::new(size, size);
        let far = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15);
        let character = Character::from_seed(far);
        let shot = Shot::random(far);
        easel.draw_into(&character, &shot, size, &mut picture);
        let (low, high) = picture
            .iter()
            .fold((255, 0), |(low, high), v| (low.min(*v), high.max(*v)));
        assert!(high - low > 100, "{shot:?} is flat: {low} to {high}");
    }
    let largest = draw(&Character::from_seed(1), &Shot::random(1), *SIZES.end());
    let small = draw(&Character::from_seed(1), &Shot::random(1), 96);
    let shrunk = resize(&largest, 96, 96, FilterType::Triangle);
    assert!(
        difference(&shrunk, &small) < 4.0,
        "a size changes how fine it is, and nothing else"
    );
}

#[test]
#[should_panic(expected = "64 to 512")]
fn a_size_that_cannot_be_drawn_is_refused() {
    let _ = draw(&Character::from_seed(1), &Shot::random(1), 63);
}

#[test]
fn every_word_of_a_shot_shows() {
    fn apart<T: Copy + std::fmt::Debug>(values: &[T], least: f64, shot: impl Fn(T) -> Shot) {
        for seed in [2, 5] {
            let character = Character::from_seed(seed);
            let pictures: Vec<RgbImage> = values
                .iter()
                .map(|value| draw(&character, &shot(*value), 96))
                .collect();
            for i in 0..values.len() {
                for j in 0..i {
                    let found = difference(&pictures[i], &pictures[j]);
                    assert!(
                        found > least,
                        "{:?}, {:?}: {found:.2}",
                        values[i],
                        values[j]
                    );
                }
            }
        }
    }
    apart(Angle::ALL, 8.0, |angle| Shot { angle, ..SHOT });
    apart(Lighting::ALL, 20.0, |lighting| Shot { lighting, ..SHOT });
    apart(Place::ALL, 12.0, |place| Shot { place, ..SHOT });
    apart(Outfit::ALL, 5.0, |outfit| Shot { outfit, ..SHOT });
    // A look is a matter of few pixels, and of the face alone.
    for angle in Angle::ALL {
        for seed in [2, 5, 8] {
            let character = Character::from_seed(seed);
            let faces: Vec<RgbImage> = Expression::ALL
                .iter()
                .map(|expression| {
                    let shot = Shot {
                        expression: *expression,
                        angle: *angle,
                        ..SHOT
                    };
                    let area = face_box(&character, &shot, 96);
                    within(&draw(&character, &shot, 96), area)
                })
                .collect();
            for i in 0..faces.len() {
                for j in 0..i {
                    let found = most_different_spot(&faces[i], &faces[j]);
                    assert!(
                        found > 15.0,
                        "{angle:?}: {:?}, {:?}: {found:.1}",
                        Expression::ALL[i],
                        Expression::ALL[j]
                    );
                }
            }
        }
    }
}

#[test]
fn a_look_changes_the_face_box_alone() {
    for seed in 0..6 {
        let character = Character::from_seed(seed);
        for angle in Angle::ALL {
            let shot = |expression| look(*angle, expression);
            let calm = draw(&character, &shot(Expression::Neutral), 96);
            let area = face_box(&character, &shot(Expression::Neutral), 96);
            assert!(
                area.left + area.side <= 96 && area.top + area.side <= 96,
                "{area:?}"
            );
            assert!((30..80).contains(&area.side), "{area:?}");
            for expression in [Expression::Smile, Expression::Surprised] {
                let other = draw(&character, &shot(expression), 96);
                let all = difference(&calm, &other) * f64::from(96 * 96);
                let inside = difference(&within(&calm, area), &within(&other, area))
                    * f64::from(area.side * area.side);
                assert!(
                    inside > 0.98 * all,
                    "{angle:?}: {inside} of {all} in {area:?}"
                );
            }
        }
    }
}

/// In a few cells, of the mouth and the brows, most of what tells a look from another; they count most.
#[test]
fn what_tells_a_look_counts_most() {
    const SIDE: usize = 24;
    const CELL: u32 = 96 / SIDE as u32;
    let (mut told, mut all, mut cells) = (0.0, 0.0, 0);
    let mut pictures = 0;
    for seed in 0..6 {
        let character = Character::from_seed(seed);
        for angle in Angle::ALL {
            let shot = |expression| look(*angle, expression);
            let weights = importance(
                &character,
                &shot(Expression::Neutral),
                SIDE,
                Attention::EXPRESSION,
            );
            let most = weights.iter().copied().fold(0.0, f32::max);
            let calm = draw(&character, &shot(Expression::Neutral), 96);
            for expression in Expression::ALL {
                let other = draw(&character, &shot(*expression), 96);
                pictures += 1;
                for (index, &weight) in weights.iter().enumerate() {
                    let cell = FaceBox {
                        left: index as u32 % SIDE as u32 * CELL,
                        top: index as u32 / SIDE as u32 * CELL,
                        side: CELL,
                    };
                    let differs = difference(&within(&calm, cell), &within(&other, cell));
                    all += differs;
                    if weight == most {
                        told += differs;
                        cells += 1;
                    }
                }
            }
        }
    }
    let share = told / all;
    let cells = f64::from(cells) / f64::from(pictures);
    assert!(
        share > 0.6 && cells < 25.0,
        "{share} of the difference in {cells} of 576 cells"
    );
}

/// One picture each of some characters, with everything alike but the shots' seed.
fn people(count: u64, seed: u64) -> Vec<RgbImage> {
    let shot = Shot { seed, ..SHOT };
    (0..count)
        .map(|c| draw(&Character::from_seed(c), &shot, 96))
        .collect()
}

#[test]
fn who_it_is_tells_more_than_the_jitter() {
    let (first, second) = (people(40, 100), people(40, 101));
    let mean = |pairs: Vec<(usize, usize)>, a: &[RgbImage], b: &[RgbImage]| {
        let sum: f64 = pairs.iter().map(|(i, j)| difference(&a[*i], &b[*j])).sum();
        sum / pairs.len() as f64
    };
    let same = mean((0..40).map(|i| (i, i)).collect(), &first, &second);
    let pairs = (0..40).flat_map(|i| (0..i).map(move |j| (i, j))).collect();
    let other = mean(pairs, &first, &first);
    assert!(
        other > 1.5 * same,
        "two characters {other:.1}, one character twice {same:.1}"
    );

    // As 12 × 12 pixels, each is most like the other picture of the same character.
    let small = |pictures: &[RgbImage]| -> Vec<RgbImage> {
        let shrink = |p| resize(p, 12, 12, FilterType::Triangle);
        pictures.iter().map(shrink).collect()
    };
    let (first, second) = (small(&first), small(&second));
    let found = |i: usize| {
        let likeness = |j: &usize| difference(&first[i], &second[*j]);
        (0..40).min_by(|a, b| likeness(a).total_cmp(&likeness(b)))
    };
    let right = (0..40).filter(|i| found(*i) == Some(*i)).count();
    assert!(right >= 38, "{right} of 40 found again");
}

#[test]
fn jitter_is_the_same_for_all_characters() {
    // Where the place is seen, two characters in the same shot have the same pixels.
    for seed in 0..4 {
        let shot = Shot {
            place: Place::Library,
            seed,
            ..SHOT
        };
        let [a, b] = [3, 9].map(|c| draw(&Character::from_seed(c), &shot, 96));
        for (x, y) in [(0, 0), (95, 0), (2, 40), (93, 40)] {
            assert_eq!(a.get_pixel(x, y), b.get_pixel(x, y), "{x}, {y}");
        }
    }
}

type Change = Box<dyn Fn(&mut Character)>;

/// Every trait that captions do not tell, by levels of which any two can be told apart.
fn traits() -> Vec<(&'static str, Vec<Change>)> {
    fn levels<T: Clone + 'static>(values: Vec<T>, set: fn(&mut Character, T)) -> Vec<Change> {
        let change = |value: T| Box::new(move |c: &mut Character| set(c, value.clone())) as Change;
        values.into_iter().map(change).collect()
    }
    let two = || vec![-0.8, 0.8];
    let rgb = |code: u32| {
        let part = |shift: u32| ((code >> shift) & 255) as f32 / 255.0;
        Color {
            r: part(16),
            g: part(8),
            b: part(0),
        }
    };
    let hair = [
        0x26222b, 0x5f3a28, 0xb0532a, 0xe0bb6c, 0xf4ead0, 0x9a9ca8, 0xd04a8a, 0x8a5ad0, 0x3f6fd8,
        0x20a0a8, 0x2f9a4a, 0xc03038,
    ];
    let skin = [0xfde4d7, 0xf0bd9a, 0xc58659, 0x7a4a2e, 0x573423];
    let iris = [0x4a2c1e, 0xb5762e, 0x4f9a52, 0x3f87d4];
    let glasses = [Lenses::Round, Lenses::Square, Lenses::CatEye];
    let mut frames = vec![None];
    for shape in glasses {
        for color in [0x24222a, 0xd9a441, 0x2f6fb0] {
            frames.push(Some(Glasses {
                shape,
                color: rgb(color),
            }));
        }
    }
    let mole = vec![
        None,
        Some(Mole::LeftEye),
        Some(Mole::RightEye),
        Some(Mole::LeftMouth),
        Some(Mole::RightMouth),
    ];
    let scar = vec![
        None,
        Some(Scar::LeftBrow),
        Some(Scar::RightBrow),
        Some(Scar::LeftCheek),
        Some(Scar::RightCheek),
    ];
    vec![
        ("cut", levels(Cut::WOMEN.to_vec(), |c, v| c.hair.cut = v)),
        (
            "hair",
            levels(hair.map(rgb).to_vec(), |c, v| c.hair.color = v),
        ),
        ("skin", levels(skin.map(rgb).to_vec(), |c, v| c.skin = v)),
        ("width", levels(two(), |c, v| c.face.width = v)),
        ("jaw", levels(two(), |c, v| c.face.jaw = v)),
        ("length", levels(two(), |c, v| c.face.length = v)),
        (
            "iris",
            levels(iris.map(rgb).to_vec(), |c, v| c.eyes.color = v),
        ),
        ("eyes' size", levels(two(), |c, v| c.eyes.size = v)),
        (
            "eyes' roundness",
            levels(two(), |c, v| c.eyes.roundness = v),
        ),
        ("eyes' slant", levels(two(), |c, v| c.eyes.slant = v)),
        ("eyes' spacing", levels(two(), |c, v| c.eyes.spacing = v)),
        (
            "brows' thickness",
            levels(two(), |c, v| c.brows.thickness = v),
        ),
        ("nose's length", levels(two(), |c, v| c.nose.length = v)),
        ("mouth's width", levels(two(), |c, v| c.mouth.width = v)),
        (
            "mouth's fullness",
            levels(two(), |c, v| c.mouth.fullness = v),
        ),
        ("freckles", levels(vec![0.0, 0.9], |c, v| c.freckles = v)),
        ("mole", levels(mole, |c, v| c.mole = v)),
        ("scar", levels(scar, |c, v| c.scar = v)),
        ("glasses", levels(frames, |c, v| c.glasses = v)),
    ]
}

#[test]
fn more_than_a_million_characters_can_be_told_apart() {
    let mut count = 1.0;
    for (name, levels) in traits() {
        let mut worst = f64::MAX;
        for seed in [11, 12] {
            let plain = Character {
                glasses: None,
                freckles: 0.0,
                mole: None,
                scar: None,
                skin: Character::from_seed(1).skin,
                ..Character::with_sex(seed, Sex::Woman)
            };
            let pictures: Vec<RgbImage> = levels
                .iter()
                .map(|change| {
                    let mut character = plain.clone();
                    change(&mut character);
                    draw(&character, &SHOT, 96)
                })
                .collect();
            for i in 0..levels.len() {
                for j in 0..i {
                    worst = worst.min(most_different_spot(&pictures[i], &pictures[j]));
                }
            }
        }
        assert!(
            worst > 7.0,
            "{name}: two levels differ by {worst:.1} at most"
        );
        count *= levels.len() as f64;
    }
    assert!(count > 1e6, "{count:e}");
}

#[test]
fn men_differ_too() {
    let beards = [
        Beard::None,
        Beard::Stubble,
        Beard::Moustache,
        Beard::Goatee,
        Beard::Short,
        Beard::Long,
    ];
    let man = Character {
        beard: Beard::None,
        ..Character::with_sex(4, Sex::Man)
    };
    let with = |change: &dyn Fn(&mut Character)| {
        let mut man = man.clone();
        change(&mut man);
        draw(&man, &SHOT, 96)
    };
    let mut pictures: Vec<RgbImage> = beards.iter().map(|b| with(&|man| man.beard = *b)).collect();
    for cut in Cut::MEN {
        pictures.push(with(&|man| man.hair.cut = *cut));
    }
    for i in 1..pictures.len() {
        for j in 0..i {
            let found = most_different_spot(&pictures[i], &pictures[j]);
            // The man's own cut is among them.
            assert!(found > 8.0 || found == 0.0, "{i} {j}: {found:.1}");
        }
    }
}

#[test]
fn the_demo_s_characters_are_never_trained_on() {
    const { assert!(HELD_OUT.end <= TRAINING.start) };
    assert!(HELD_OUT.contains(&0) && TRAINING.contains(&1_000_000));
}

#[test]
fn earrings_are_seen_where_the_ears_are() {
    let earrings = Some(Earrings {
        shape: Jewel::Hoop,
        color: Color {
            r: 0.95,
            g: 0.75,
            b: 0.3,
        },
    });
    for (cut, seen) in [(Cut::Bun, true), (Cut::Bob, false)] {
        let mut with = Character {
            earrings,
            ..Character::with_sex(3, Sex::Woman)
        };
        with.hair.cut = cut;
        let without = Character {
            earrings: None,
            ..with.clone()
        };
        let found = most_different_spot(&draw(&with, &SHOT, 96), &draw(&without, &SHOT, 96));
        assert_eq!(found > 8.0, seen, "{cut:?}: {found}");
    }
}
