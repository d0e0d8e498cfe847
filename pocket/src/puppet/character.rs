use std::ops::Range;

use super::color::{Color, hex, ramp};
use super::random::Random;
use super::shot::Sex;

/// Seeds of characters that a model may be trained on.
pub const TRAINING: Range<u64> = 1_000_000..u64::MAX;

/// Seeds of characters that no model is trained on: those of the demo, of the tests, and all that a person is likely to type.
pub const HELD_OUT: Range<u64> = 0..1_000_000;

/// Someone who can be drawn: all that stays the same from shot to shot, and that captions do not tell but for the sex.
#[derive(Clone, Debug, PartialEq)]
pub struct Character {
    /// Where each freckle and each strand of hair lies.
    pub seed: u64,
    /// Man or woman.
    pub sex: Sex,
    /// The skin in plain light.
    pub skin: Color,
    /// The head's shape.
    pub face: Face,
    /// The hair on the head.
    pub hair: Hair,
    /// The brows.
    pub brows: Brows,
    /// The eyes.
    pub eyes: Eyes,
    /// The nose.
    pub nose: Nose,
    /// The mouth.
    pub mouth: Mouth,
    /// The beard.
    pub beard: Beard,
    /// How many freckles, 0 (none) to 1.
    pub freckles: f32,
    /// A mole.
    pub mole: Option<Mole>,
    /// A scar.
    pub scar: Option<Scar>,
    /// Glasses.
    pub glasses: Option<Glasses>,
    /// Earrings; drawn where the hair leaves the ears free.
    pub earrings: Option<Earrings>,
}

/// The head's shape. Each number goes from -1 to 1.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Face {
    /// Narrow to broad.
    pub width: f32,
    /// Tapering to square.
    pub jaw: f32,
    /// Pointed to broad.
    pub chin: f32,
    /// Short to long.
    pub length: f32,
}

/// The hair on the head.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Hair {
    /// How it is cut and worn.
    pub cut: Cut,
    /// Its colour in plain light.
    pub color: Color,
    /// The colour of a streak.
    pub streak: Option<Color>,
    /// On which side it is parted: -1 or 1.
    pub side: f32,
    /// Flat to full, -1 to 1.
    pub volume: f32,
}

/// How hair is cut and worn.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Cut {
    /// Long and straight, parted in the middle.
    Long,
    /// Long, with blunt bangs and cheek-length sides.
    Princess,
    /// Long and wavy, parted at the side.
    Wavy,
    /// Chin-long with blunt bangs.
    Bob,
    /// Shoulder-long, flipped out, with curtain bangs.
    Flip,
    /// Short with a swept fringe.
    Pixie,
    /// Swept back into a high tail.
    Ponytail,
    /// Two tails and bangs.
    Twintails,
    /// A knot on top.
    Bun,
    /// Two knots and bangs.
    SpaceBuns,
    /// A braid over the shoulder.
    Braid,
    /// A large round cloud of curls.
    Afro,
    /// Shaved to a shadow.
    Buzz,
    /// Short, parted at the side.
    SidePart,
    /// Short spikes.
    Spiky,
    /// Brushed up and back, with short sides.
    Quiff,
    /// Parted in the middle, to the cheekbones.
    Curtains,
    /// Combed straight back.
    SlickBack,
    /// A crest between shaved sides.
    Mohawk,
    /// A knot at the back of the crown, with short sides.
    TopKnot,
    /// Loose to the shoulders.
    Loose,
    /// Short curls.
    Curls,
    /// A bowl.
    Bowl,
    /// No hair.
    Bald,
}

impl Cut {
    /// Cuts that women wear.
    pub const WOMEN: &'static [Self] = &[
        Self::Long,
        Self::Princess,
        Self::Wavy,
        Self::Bob,
        Self::Flip,
        Self::Pixie,
        Self::Ponytail,
        Self::Twintails,
        Self::Bun,
        Self::SpaceBuns,
        Self::Braid,
        Self::Afro,
    ];
    /// Cuts that men wear.
    pub const MEN: &'static [Self] = &[
        Self::Buzz,
        Self::SidePart,
        Self::Spiky,
        Self::Quiff,
        Self::Curtains,
        Self::SlickBack,
        Self::Mohawk,
        Self::TopKnot,
        Self::Loose,
        Self::Curls,
        Self::Bowl,
        Self::Bald,
    ];

    /// Whether the ears are covered.
    pub fn covers_ears(self) -> bool {
        matches!(
            self,
            Self::Long
                | Self::Princess
                | Self::Wavy
                | Self::Bob
                | Self::Flip
                | Self::Afro
                | Self::Curtains
                | Self::Loose
                | Self::Bowl
        )
    }
}

/// The brows. Each number goes from -1 to 1.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Brows {
    /// Thin to thick.
    pub thickness: f32,
    /// Straight to arched.
    pub arch: f32,
    /// Falling to rising outwards.
    pub slant: f32,
}

/// The eyes. Each number goes from -1 to 1.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Eyes {
    /// Small to large.
    pub size: f32,
    /// Narrow to round.
    pub roundness: f32,
    /// Outer corners low to high.
    pub slant: f32,
    /// Close to wide apart.
    pub spacing: f32,
    /// The iris.
    pub color: Color,
}

/// The nose. Each number goes from -1 to 1.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Nose {
    /// Short to long.
    pub length: f32,
    /// Narrow to broad.
    pub width: f32,
    /// Flat to prominent.
    pub bridge: f32,
    /// Drooping to turned up.
    pub tip: f32,
}

/// The mouth. Each number goes from -1 to 1.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Mouth {
    /// Narrow to wide.
    pub width: f32,
    /// Thin to full lips.
    pub fullness: f32,
    /// The lips' colour in plain light.
    pub color: Color,
}

/// The beard.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Beard {
    /// Shaved.
    None,
    /// A shadow of hairs.
    Stubble,
    /// On the upper lip.
    Moustache,
    /// Around the mouth and on the chin.
    Goatee,
    /// Whole and short.
    Short,
    /// Whole and long.
    Long,
}

/// A mole; left and right are the character's in the picture, seen from the front.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Mole {
    /// Under the left eye.
    LeftEye,
    /// Under the right eye.
    RightEye,
    /// Left of the mouth.
    LeftMouth,
    /// Right of the mouth.
    RightMouth,
}

/// A scar; left and right as for a [`Mole`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Scar {
    /// Through the left brow.
    LeftBrow,
    /// Through the right brow.
    RightBrow,
    /// On the left cheek.
    LeftCheek,
    /// On the right cheek.
    RightCheek,
}

/// Glasses.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Glasses {
    /// Their form.
    pub shape: Lenses,
    /// Their frame.
    pub color: Color,
}

/// The form of glasses.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Lenses {
    /// Circles.
    Round,
    /// Rounded squares with a heavy frame.
    Square,
    /// Rising to the sides.
    CatEye,
}

/// Earrings.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Earrings {
    /// Their form.
    pub shape: Jewel,
    /// Their colour.
    pub color: Color,
}

/// The form of earrings.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Jewel {
    /// Small balls.
    Stud,
    /// Rings.
    Hoop,
    /// Drops on a chain.
    Drop,
}

const SKIN: [Color; 8] = [
    hex(0xfde4d7),
    hex(0xf8d3bb),
    hex(0xf0bd9a),
    hex(0xdfa078),
    hex(0xc58659),
    hex(0xa0673f),
    hex(0x7a4a2e),
    hex(0x573423),
];

const NATURAL_HAIR: [Color; 10] = [
    hex(0x26222b),
    hex(0x3d2a24),
    hex(0x5f3a28),
    hex(0x8a4f2f),
    hex(0xb0532a),
    hex(0xcf7a3a),
    hex(0xb98a50),
    hex(0xe0bb6c),
    hex(0xf0e0b8),
    hex(0xb4b6c0),
];

const IRIS: [Color; 9] = [
    hex(0x4a2c1e),
    hex(0x7a4a24),
    hex(0xb5762e),
    hex(0x8a8a3a),
    hex(0x4f9a52),
    hex(0x2fa3a0),
    hex(0x3f87d4),
    hex(0x7b8fa8),
    hex(0x8a63c8),
];

const METAL: [Color; 6] = [
    hex(0xf2c14e),
    hex(0xdfe6ee),
    hex(0xe2556b),
    hex(0x38b6a8),
    hex(0x5b7fe0),
    hex(0xf4f0e6),
];

const FRAMES: [Color; 7] = [
    hex(0x24222a),
    hex(0x8c3b2e),
    hex(0xd9a441),
    hex(0x2f6fb0),
    hex(0xc9cdd6),
    hex(0xb23a6a),
    hex(0x3b7a57),
];

impl Character {
    /// The character of a seed; the same seed gives the same one on every platform.
    pub fn from_seed(seed: u64) -> Self {
        let mut random = Random::new(seed, "character");
        let sex = random.pick(Sex::ALL);
        Self::of(seed, sex, &mut random)
    }

    /// A man or a woman of a seed.
    pub fn with_sex(seed: u64, sex: Sex) -> Self {
        let mut random = Random::new(seed, "character");
        let _ = random.next();
        Self::of(seed, sex, &mut random)
    }

    fn of(seed: u64, sex: Sex, random: &mut Random) -> Self {
        let woman = sex == Sex::Woman;
        // Away from the mean: what is neither narrow nor broad tells nobody apart.
        let trait_value = |random: &mut Random| {
            let x = random.swing(1.0);
            (x * (1.35 - 0.35 * x.abs())).clamp(-1.0, 1.0)
        };
        let tone = random.unit();
        let skin = ramp(&SKIN, tone * tone.sqrt() * 0.4 + tone * 0.6);
        let skin = skin.mix(hex(0xe0a050), random.range(0.0, 0.12));
        let face = Face {
            width: trait_value(random),
            jaw: trait_value(random),
            chin: trait_value(random),
            length: trait_value(random),
        };
        let cut = random.pick(if woman { Cut::WOMEN } else { Cut::MEN });
        let dyed = random.chance(0.33);
        let color = if dyed {
            let lightness = random.range(0.42, 0.80);
            Color::oklch(
                lightness,
                random.range(0.10, 0.17),
                random.range(0.0, 360.0),
            )
        } else {
            ramp(&NATURAL_HAIR, random.unit())
        };
        let streak = random.chance(0.16).then(|| {
            let hue = random.range(0.0, 360.0);
            // A streak that can be told from the hair.
            let lightness = if color.luma() > 0.45 { 0.38 } else { 0.85 };
            Color::oklch(lightness, random.range(0.03, 0.14), hue)
        });
        let hair = Hair {
            cut,
            color,
            streak: streak.filter(|_| !matches!(cut, Cut::Bald | Cut::Buzz)),
            side: if random.chance(0.5) { 1.0 } else { -1.0 },
            volume: trait_value(random),
        };
        let brows = Brows {
            thickness: trait_value(random),
            arch: trait_value(random),
            slant: trait_value(random),
        };
        let eyes = Eyes {
            size: trait_value(random),
            roundness: trait_value(random),
            slant: trait_value(random),
            spacing: trait_value(random),
            color: {
                let anchor = random.pick(&IRIS);
                anchor.mix(random.pick(&IRIS), random.range(0.0, 0.25))
            },
        };
        let nose = Nose {
            length: trait_value(random),
            width: trait_value(random),
            bridge: trait_value(random),
            tip: trait_value(random),
        };
        let blood = hex(0xb8434a);
        let natural_lips = skin.mix(blood, 0.36) * 0.94;
        let lipstick = random.pick(&[hex(0xc2303f), hex(0xd4566f), hex(0x9a2f55), hex(0xd9734f)]);
        let painted = random.chance(if woman { 0.5 } else { 0.0 });
        let mouth = Mouth {
            width: trait_value(random),
            fullness: trait_value(random),
            color: if painted {
                natural_lips.mix(lipstick, 0.85)
            } else {
                natural_lips
            },
        };
        let beard = if woman {
            Beard::None
        } else {
            random.weighted(&[
                (Beard::None, 3.0),
                (Beard::Stubble, 1.3),
                (Beard::Moustache, 1.2),
                (Beard::Goatee, 1.3),
                (Beard::Short, 1.4),
                (Beard::Long, 1.0),
            ])
        };
        let freckles = if random.chance(0.25) {
            random.range(0.4, 1.0)
        } else {
            0.0
        };
        let mole = random.chance(0.28).then(|| {
            random.pick(&[
                Mole::LeftEye,
                Mole::RightEye,
                Mole::LeftMouth,
                Mole::RightMouth,
            ])
        });
        let scar = random.chance(0.18).then(|| {
            random.pick(&[
                Scar::LeftBrow,
                Scar::RightBrow,
                Scar::LeftCheek,
                Scar::RightCheek,
            ])
        });
        let glasses = random.chance(0.3).then(|| Glasses {
            shape: random.pick(&[Lenses::Round, Lenses::Square, Lenses::CatEye]),
            color: random.pick(&FRAMES),
        });
        let earrings = random
            .chance(if woman { 0.7 } else { 0.25 })
            .then(|| Earrings {
                shape: random.pick(&[Jewel::Stud, Jewel::Hoop, Jewel::Drop]),
                color: random.pick(&METAL),
            });
        Self {
            seed,
            sex,
            skin,
            face,
            hair,
            brows,
            eyes,
            nose,
            mouth,
            beard,
            freckles,
            mole,
            scar,
            glasses,
            earrings: earrings.filter(|_| !cut.covers_ears()),
        }
    }
}
