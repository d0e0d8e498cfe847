//! Hair: bodies around the head, cut open where the face is.

use super::canvas::{Canvas, Mask, Path};
use super::character::Cut;
use super::color::{Color, rgb};
use super::face::LINE;
use super::geometry::{Vec2, Vec3, along, lerp, smoothstep, vec2, vec3};
use super::light::Light;
use super::random::Random;
use super::scene::{Ball, Scene, around};
use super::surface::{Section, Surface, section};

/// One body of hair.
#[derive(Debug)]
struct Mass {
    body: Surface,
    /// The edge of the opening for the face, as azimuth and height, from the picture's left to its right; below it there is no hair.
    edge: Vec<Vec2>,
    /// The azimuth of hanging hair's front edge; nothing for short hair.
    hangs: Option<f32>,
    color: Color,
    /// Size of waves of the outline.
    wave: f32,
    /// Radius of curls along the outline.
    curls: f32,
    /// Length of spikes along the outline.
    spikes: f32,
    /// How many points the lower end has.
    tips: usize,
    /// Lines that show how it is combed, as azimuth and height.
    strands: Vec<Vec<Vec2>>,
    /// How much it shines; 0 is a shadow of shaved hair.
    gloss: f32,
}

/// Something that stands out of the hair: a tail, a knot.
#[derive(Debug)]
struct Lock {
    /// Its middle line in space; one point is a ball.
    line: Vec<Vec3>,
    /// Its radius at the start, in the middle and at the end.
    radii: [f32; 3],
    /// Whether it is braided.
    braided: bool,
    /// Whether a band holds its start.
    band: bool,
}

/// All hair of a character.
#[derive(Debug, Default)]
pub(crate) struct Hair {
    masses: Vec<Mass>,
    locks: Vec<Lock>,
    crest: bool,
    band: Color,
}

const fn at(azimuth: f32, y: f32) -> Vec2 {
    vec2(azimuth, y)
}

/// A body that lies around the skull: how much thicker at the top, the sides, the front and the back.
fn shell(skull: &Surface, [top, side, front, back]: [f32; 4]) -> Vec<Section> {
    let mut sections = vec![];
    let first = skull.level(-0.9999);
    sections.push(Section {
        y: -1.0 - top,
        width: 0.0,
        front: 0.0,
        back: 0.0,
        ..first
    });
    for (y, rise) in [(-0.955, 0.95), (-0.80, 0.8), (-0.55, 0.45), (-0.25, 0.15), (0.02, 0.0), (0.26, 0.0)] {
        let s = skull.level(y);
        sections.push(Section {
            y: y - top * rise,
            z: s.z,
            width: s.width + side,
            front: s.front + front,
            back: s.back + back,
        });
    }
    sections
}

/// The shell of short hair, down to the neck; its sides lie close to the ears.
fn short(skull: &Surface, thick: [f32; 4]) -> Surface {
    let [_, side, front, back] = thick;
    let mut sections = shell(skull, thick);
    let last = sections.len();
    for (section, share) in sections[last - 3..].iter_mut().zip([0.35, 0.85, 1.0]) {
        section.width -= (side - 0.01) * share;
        section.front -= (front - 0.01) * share;
    }
    let s = skull.level(0.26);
    sections.push(Section {
        y: 0.55,
        z: 0.0,
        width: s.width * 0.80,
        front: s.front * 0.7,
        back: s.back * 0.74 + back * 0.4,
    });
    sections.push(Section {
        y: 0.72,
        z: 0.02,
        width: s.width * 0.55,
        front: 0.3,
        back: 0.4,
    });
    Surface::through(&sections)
}

/// The shell of hair that hangs down to `end`; `spread` is how much wider it is there than at the cheeks.
fn hanging(skull: &Surface, thick: [f32; 4], end: f32, spread: f32) -> Surface {
    Surface::through(&hanging_sections(skull, thick, end, spread))
}

fn hanging_sections(skull: &Surface, thick: [f32; 4], end: f32, spread: f32) -> Vec<Section> {
    let mut sections = shell(skull, thick);
    let last = sections[sections.len() - 1];
    for k in 1..=4 {
        let share = k as f32 / 4.0;
        let grown = 1.0 + spread * share;
        sections.push(Section {
            y: lerp(0.26, end, share),
            z: last.z - 0.06 * share,
            width: last.width * grown,
            front: last.front * lerp(1.0, 0.72, share),
            back: last.back * lerp(1.0, 0.80, share) * (1.0 + 0.3 * spread * share),
        });
    }
    sections
}

/// Hanging hair whose ends turn outwards.
fn flipped(mut sections: Vec<Section>) -> Surface {
    let last = sections.len();
    for (section, grown) in sections[last - 4..].iter_mut().zip([0.98, 0.96, 1.04, 1.42]) {
        section.width *= grown;
        section.back *= grown;
    }
    Surface::through(&sections)
}

/// Short hair that rises in front.
fn quiff(skull: &Surface, rise: f32) -> Surface {
    let mut sections = shell(skull, [rise, 0.03, 0.10, 0.04]);
    // The top leans forward.
    for (section, lean) in sections.iter_mut().zip([0.22, 0.24, 0.16, 0.06]) {
        section.z += lean;
        section.front += lean * 0.3;
    }
    Surface::through(&sections)
}

/// The hairline of short hair: over the forehead at `forehead`, around the ears, to the neck.
fn around_ears(forehead: f32, temple: f32, burn: f32) -> Vec<Vec2> {
    let half = [
        at(0.0, forehead),
        at(20.0, forehead + 0.01),
        at(38.0, lerp(forehead, temple, 0.25)),
        at(54.0, lerp(forehead, temple, 0.75)),
        at(66.0, temple),
        at(72.0, burn),
        at(80.0, burn - 0.02),
        at(86.0, -0.10),
        at(98.0, -0.17),
        at(110.0, -0.05),
        at(118.0, 0.22),
        at(132.0, 0.44),
        at(155.0, 0.50),
        at(180.0, 0.50),
    ];
    mirrored(&half)
}

/// The opening of hanging hair: from the lower end on one side, over the forehead, to the other.
fn curtain(forehead: &[Vec2], edge: f32, end: f32) -> Vec<Vec2> {
    let mut half = forehead.to_vec();
    half.push(at(edge - 4.0, 0.05));
    half.push(at(edge, 0.45));
    // Towards its ends the hair runs together.
    half.push(at(edge + 2.0, lerp(0.45, end, 0.5)));
    half.push(at(edge + 24.0, end + 0.02));
    half.push(at(edge + 40.0, end + 0.5));
    mirrored(&half)
}

fn mirrored(half: &[Vec2]) -> Vec<Vec2> {
    let mut all: Vec<Vec2> = half.iter().rev().map(|p| at(-p.x, p.y)).collect();
    all.extend_from_slice(if half[0].x == 0.0 { &half[1..] } else { half });
    all
}

/// Lines from a parting at azimuth `from` on the crown, to both sides.
fn parted(from: f32, top: f32, low: f32) -> Vec<Vec<Vec2>> {
    let mut lines = vec![];
    for k in 0..7 {
        let to = lerp(18.0, 150.0, k as f32 / 6.0);
        for side in [-1.0, 1.0] {
            let to = side * to;
            lines.push(vec![
                at(lerp(from, to, 0.25), top),
                at(lerp(from, to, 0.75), lerp(top, low, 0.35)),
                at(lerp(from, to, 0.96), lerp(top, low, 0.70)),
                at(to, low),
            ]);
        }
    }
    lines
}

/// Lines that run straight down.
fn straight(top: f32, low: f32) -> Vec<Vec<Vec2>> {
    (-9..=9)
        .map(|k| {
            let azimuth = k as f32 * 18.0 + 6.0;
            vec![at(azimuth, top), at(azimuth + 2.0, lerp(top, low, 0.5)), at(azimuth, low)]
        })
        .collect()
}

/// Lines that are combed back from the hairline.
fn combed(forehead: f32) -> Vec<Vec<Vec2>> {
    (-5..=5)
        .map(|k| {
            let azimuth = k as f32 * 15.0;
            let start = forehead + 0.12 * (k as f32 / 5.0).abs();
            vec![
                at(azimuth, start - 0.04),
                at(azimuth * 1.12, lerp(start, -1.0, 0.45)),
                at(azimuth * 1.5, -0.93),
            ]
        })
        .collect()
}

/// What is left of the hair above shaved sides.
fn top_only(forehead: f32, side: f32) -> Vec<Vec2> {
    mirrored(&[
        at(0.0, forehead),
        at(24.0, forehead),
        at(44.0, forehead + 0.03),
        at(62.0, side),
        at(90.0, side - 0.04),
        at(120.0, side + 0.04),
        at(150.0, side + 0.22),
        at(180.0, side + 0.28),
    ])
}

impl Hair {
    pub fn new(scene: &Scene<'_>) -> Self {
        let character = scene.character;
        let skull = &scene.skull;
        let hair = character.hair;
        let full = 0.055 * hair.volume;
        let color = hair.color;
        let side = hair.side;
        let flip = |points: Vec<Vec2>| -> Vec<Vec2> {
            if side < 0.0 {
                points.into_iter().rev().map(|p| at(-p.x, p.y)).collect()
            } else {
                points
            }
        };
        let mass = |body: Surface, edge: Vec<Vec2>, hangs: Option<f32>| Mass {
            body,
            edge,
            hangs,
            color,
            wave: 0.0,
            curls: 0.0,
            spikes: 0.0,
            tips: 5,
            strands: vec![],
            gloss: 1.0,
        };
        // Shaved sides: a shadow of hair on the skin.
        let shaved = |strength: f32| Mass {
            color: character.skin.mix(color * 0.75, strength),
            gloss: 0.0,
            ..mass(
                short(skull, [0.015, 0.012, 0.012, 0.012]),
                around_ears(-0.66, -0.34, 0.08),
                None,
            )
        };
        let middle = [at(0.0, -0.86), at(9.0, -0.72), at(27.0, -0.50), at(46.0, -0.24)];
        let blunt = [at(0.0, -0.33), at(25.0, -0.34), at(44.0, -0.32), at(54.0, -0.22)];
        // From the parting on one side across the forehead to the other.
        let swept = |low: f32| {
            flip(vec![
                at(-46.0, -0.34),
                at(-36.0, -0.58),
                at(-25.0, -0.74),
                at(-6.0, -0.60),
                at(16.0, -0.46),
                at(38.0, low),
            ])
        };
        let fringe = |points: Vec<Vec2>, temple: f32| {
            // Any fringe, and around the ears on both sides.
            let side = |sign: f32| {
                let mut tail = vec![
                    at(sign * 64.0, temple),
                    at(sign * 72.0, 0.06),
                    at(sign * 79.0, 0.04),
                    at(sign * 86.0, -0.10),
                    at(sign * 98.0, -0.17),
                    at(sign * 110.0, -0.05),
                    at(sign * 118.0, 0.22),
                    at(sign * 132.0, 0.44),
                    at(sign * 155.0, 0.52),
                    at(sign * 180.0, 0.52),
                ];
                if sign < 0.0 {
                    tail.reverse();
                }
                tail
            };
            [side(-1.0), points, side(1.0)].concat()
        };
        let ball = |p: Vec3, radius: f32| Lock {
            line: vec![p],
            radii: [radius; 3],
            braided: false,
            band: true,
        };
        let mut locks = vec![];
        let mut crest = false;
        let masses = match hair.cut {
            Cut::Bald => vec![],
            Cut::Buzz => vec![shaved(0.66)],
            Cut::Long => vec![Mass {
                strands: parted(0.0, -0.98, 1.9),
                ..mass(
                    hanging(skull, [0.12 + full, 0.13 + full, 0.05, 0.12], 1.80, 0.10),
                    curtain(&middle, 53.0, 1.8),
                    Some(53.0),
                )
            }],
            Cut::Princess => {
                let mut front = blunt.to_vec();
                front.extend([at(55.0, 0.20), at(50.0, 0.55), at(62.0, 0.60)]);
                vec![Mass {
                    strands: straight(-0.95, 1.9),
                    ..mass(
                        hanging(skull, [0.12 + full, 0.14 + full, 0.07, 0.12], 1.9, 0.06),
                        curtain(&front, 60.0, 1.9),
                        Some(58.0),
                    )
                }]
            }
            Cut::Wavy => {
                let ends = [at(58.0, 0.02), at(62.0, 0.45), at(60.0, 0.9), at(58.0, 2.1)];
                let mut edge: Vec<Vec2> = ends.iter().rev().map(|p| at(-p.x, p.y)).collect();
                edge.extend(swept(-0.26));
                edge.extend(ends);
                vec![Mass {
                    wave: 0.030,
                    tips: 4,
                    strands: parted(-30.0 * side, -0.95, 1.7),
                    ..mass(
                        hanging(skull, [0.17 + full, 0.17 + full, 0.06, 0.16], 1.65, 0.22),
                        edge,
                        Some(60.0),
                    )
                }]
            }
            Cut::Bob => vec![Mass {
                tips: 2,
                strands: straight(-0.95, 0.95),
                ..mass(
                    hanging(skull, [0.12 + full, 0.13 + full, 0.08, 0.14], 0.78, 0.12),
                    curtain(&blunt, 55.0, 0.8),
                    Some(55.0),
                )
            }],
            Cut::Flip => {
                let front = [
                    at(0.0, -0.84),
                    at(9.0, -0.62),
                    at(24.0, -0.38),
                    at(42.0, -0.18),
                    at(52.0, -0.04),
                ];
                vec![Mass {
                    tips: 4,
                    strands: parted(0.0, -0.98, 1.2),
                    ..mass(
                        flipped(hanging_sections(skull, [0.13 + full, 0.11 + full, 0.07, 0.13], 1.10, 0.0)),
                        curtain(&front, 58.0, 1.1),
                        Some(58.0),
                    )
                }]
            }
            Cut::Pixie => vec![Mass {
                strands: parted(-34.0 * side, -0.95, 0.1),
                ..mass(
                    short(skull, [0.15 + full, 0.085 + full, 0.09, 0.09]),
                    fringe(
                        flip(vec![
                            at(-56.0, -0.20),
                            at(-46.0, -0.44),
                            at(-32.0, -0.66),
                            at(-14.0, -0.52),
                            at(8.0, -0.34),
                            at(24.0, -0.40),
                            at(34.0, -0.20),
                            at(46.0, -0.28),
                            at(56.0, -0.06),
                        ]),
                        -0.04,
                    ),
                    None,
                )
            }],
            Cut::Ponytail => {
                locks.push(Lock {
                    line: vec![
                        vec3(0.0, -0.78, -0.78),
                        vec3(0.0, -0.95, -1.22),
                        vec3(side * 0.08, -0.35, -1.62),
                        vec3(side * 0.16, 0.45, -1.50),
                        vec3(side * 0.10, 1.15, -1.25),
                    ],
                    radii: [0.13, 0.27 + full, 0.03],
                    braided: false,
                    band: true,
                });
                vec![Mass {
                    strands: combed(-0.66),
                    ..mass(
                        short(skull, [0.07, 0.04, 0.03, 0.06]),
                        around_ears(-0.66, -0.34, 0.16),
                        None,
                    )
                }]
            }
            Cut::Twintails => {
                for side in [-1.0, 1.0] {
                    locks.push(Lock {
                        line: vec![
                            vec3(side * 0.70, -0.52, -0.25),
                            vec3(side * 1.16, -0.42, -0.34),
                            vec3(side * 1.30, 0.25, -0.36),
                            vec3(side * 1.16, 0.95, -0.24),
                            vec3(side * 1.24, 1.5, -0.18),
                        ],
                        radii: [0.11, 0.25 + full, 0.03],
                        braided: false,
                        band: true,
                    });
                }
                let points = mirrored(&[at(0.0, -0.34), at(14.0, -0.30), at(28.0, -0.38), at(42.0, -0.28), at(54.0, -0.22)]);
                vec![Mass {
                    strands: parted(0.0, -0.98, 0.1),
                    ..mass(
                        short(skull, [0.10, 0.06, 0.08, 0.06]),
                        fringe(points, -0.06),
                        None,
                    )
                }]
            }
            Cut::Bun => {
                locks.push(ball(vec3(0.0, -1.26, -0.22), 0.36 + full));
                vec![Mass {
                    strands: combed(-0.66),
                    ..mass(
                        short(skull, [0.08, 0.045, 0.04, 0.06]),
                        around_ears(-0.66, -0.34, 0.20),
                        None,
                    )
                }]
            }
            Cut::SpaceBuns => {
                for side in [-1.0, 1.0] {
                    locks.push(ball(vec3(side * 0.64, -1.02, -0.12), 0.31 + full));
                }
                let points = mirrored(&[at(0.0, -0.60), at(8.0, -0.40), at(26.0, -0.30), at(44.0, -0.30), at(54.0, -0.20)]);
                vec![Mass {
                    strands: parted(0.0, -0.98, 0.1),
                    ..mass(
                        short(skull, [0.09, 0.06, 0.07, 0.06]),
                        fringe(points, -0.04),
                        None,
                    )
                }]
            }
            Cut::Braid => {
                locks.push(Lock {
                    line: vec![
                        vec3(side * 0.62, 0.62, -0.50),
                        vec3(side * 0.86, 0.98, -0.22),
                        vec3(side * 0.84, 1.34, 0.16),
                        vec3(side * 0.70, 1.75, 0.38),
                        vec3(side * 0.64, 2.10, 0.44),
                    ],
                    radii: [0.17, 0.20, 0.10],
                    braided: true,
                    band: false,
                });
                vec![Mass {
                    strands: parted(-30.0 * side, -0.95, 0.2),
                    ..mass(
                        short(skull, [0.10, 0.06 + full, 0.05, 0.08]),
                        fringe(swept(-0.22), -0.08),
                        None,
                    )
                }]
            }
            Cut::Afro => {
                let r = 1.0 + 0.10 * hair.volume;
                let ring = |y: f32, width: f32| {
                    section([-0.38 + y * r, -0.22, width * r, width * r * 0.90, width * r])
                };
                let ball = Surface::through(&[
                    ring(-1.16, 0.0),
                    ring(-1.08, 0.46),
                    ring(-0.80, 0.90),
                    ring(-0.35, 1.14),
                    ring(0.10, 1.17),
                    ring(0.50, 1.02),
                    ring(0.80, 0.66),
                    ring(0.90, 0.0),
                ]);
                vec![
                    Mass {
                        curls: 0.20,
                        gloss: 0.6,
                        ..mass(ball, vec![], Some(0.0))
                    },
                    Mass {
                        curls: 0.17,
                        gloss: 0.6,
                        ..mass(
                            short(skull, [0.30, 0.10, 0.08, 0.2]),
                            around_ears(-0.58, -0.28, 0.10),
                            None,
                        )
                    },
                ]
            }
            Cut::SidePart => vec![Mass {
                strands: parted(-36.0 * side, -0.98, -0.1),
                ..mass(
                    short(skull, [0.17 + full, 0.05, 0.12, 0.05]),
                    fringe(
                        flip(vec![
                            at(-52.0, -0.42),
                            at(-44.0, -0.58),
                            at(-34.0, -0.76),
                            at(-18.0, -0.68),
                            at(6.0, -0.58),
                            at(30.0, -0.56),
                            at(48.0, -0.48),
                        ]),
                        -0.32,
                    ),
                    None,
                )
            }],
            Cut::Spiky => {
                let points = vec![
                    at(-50.0, -0.40),
                    at(-40.0, -0.62),
                    at(-28.0, -0.34),
                    at(-16.0, -0.62),
                    at(-2.0, -0.32),
                    at(10.0, -0.62),
                    at(24.0, -0.36),
                    at(36.0, -0.62),
                    at(48.0, -0.40),
                ];
                vec![Mass {
                    spikes: 0.20 + full,
                    strands: straight(-0.9, -0.5),
                    ..mass(
                        short(skull, [0.12 + full, 0.06, 0.08, 0.08]),
                        fringe(flip(points), -0.26),
                        None,
                    )
                }]
            }
            Cut::Quiff => vec![
                shaved(0.55),
                Mass {
                    strands: combed(-0.64),
                    ..mass(
                        quiff(skull, 0.40 + full),
                        top_only(-0.66, -0.56),
                        None,
                    )
                },
            ],
            Cut::Curtains => vec![Mass {
                strands: parted(0.0, -0.98, 0.2),
                ..mass(
                    hanging(skull, [0.14 + full, 0.09 + full, 0.08, 0.10], 0.50, -0.02),
                    mirrored(&[
                        at(0.0, -0.86),
                        at(9.0, -0.66),
                        at(24.0, -0.40),
                        at(42.0, -0.14),
                        at(54.0, 0.14),
                        at(62.0, 0.22),
                        at(74.0, 0.16),
                        at(95.0, 0.22),
                        at(120.0, 0.36),
                        at(150.0, 0.46),
                        at(180.0, 0.46),
                    ]),
                    None,
                )
            }],
            Cut::SlickBack => vec![Mass {
                strands: combed(-0.72),
                ..mass(
                    short(skull, [0.10 + full, 0.04, 0.05, 0.14]),
                    mirrored(&[
                        at(0.0, -0.66),
                        at(12.0, -0.72),
                        at(32.0, -0.80),
                        at(48.0, -0.66),
                        at(58.0, -0.40),
                        at(68.0, -0.22),
                        at(72.0, 0.10),
                        at(79.0, 0.06),
                        at(86.0, -0.10),
                        at(98.0, -0.17),
                        at(110.0, -0.05),
                        at(118.0, 0.22),
                        at(132.0, 0.48),
                        at(155.0, 0.60),
                        at(180.0, 0.60),
                    ]),
                    None,
                )
            }],
            Cut::Mohawk => {
                crest = true;
                vec![shaved(0.42)]
            }
            Cut::TopKnot => {
                locks.push(ball(vec3(0.0, -1.14, -0.46), 0.27 + full));
                vec![
                    shaved(0.50),
                    Mass {
                        strands: combed(-0.66),
                        ..mass(
                            short(skull, [0.08, 0.025, 0.04, 0.05]),
                            top_only(-0.66, -0.46),
                            None,
                        )
                    },
                ]
            }
            Cut::Loose => vec![Mass {
                wave: 0.014,
                tips: 4,
                strands: parted(-16.0 * side, -0.98, 1.2),
                ..mass(
                    hanging(skull, [0.11 + full, 0.09 + full, 0.05, 0.12], 1.12, 0.10),
                    curtain(
                        &[at(0.0, -0.72), at(12.0, -0.74), at(30.0, -0.58), at(48.0, -0.28)],
                        62.0,
                        1.1,
                    ),
                    Some(62.0),
                )
            }],
            Cut::Curls => vec![Mass {
                curls: 0.155,
                gloss: 0.8,
                ..mass(
                    short(skull, [0.16 + full, 0.08 + full, 0.08, 0.10]),
                    around_ears(-0.60, -0.32, 0.0),
                    None,
                )
            }],
            Cut::Bowl => vec![
                shaved(0.5),
                Mass {
                    strands: straight(-0.95, 0.2),
                    ..mass(
                        hanging(skull, [0.13 + full, 0.12 + full, 0.10, 0.13], 0.42, -0.05),
                        mirrored(&[
                            at(0.0, -0.36),
                            at(30.0, -0.35),
                            at(50.0, -0.28),
                            at(64.0, -0.10),
                            at(78.0, 0.06),
                            at(100.0, 0.16),
                            at(140.0, 0.24),
                            at(180.0, 0.26),
                        ]),
                        None,
                    )
                },
            ],
        };
        let mut random = Random::new(character.seed, "band");
        let band = Color::oklch(random.range(0.55, 0.8), 0.16, random.range(0.0, 360.0));
        Self {
            masses,
            locks,
            crest,
            band,
        }
    }

    /// What lies behind neck and shoulders.
    pub fn behind(&self, canvas: &mut Canvas, scene: &Scene<'_>) {
        for lock in self.locks.iter().filter(|lock| !lock.is_near(scene)) {
            lock.paint(canvas, scene, self.band);
        }
        for mass in self.masses.iter().filter(|mass| mass.hangs.is_some()) {
            mass.behind(canvas, scene);
        }
    }

    /// What stands behind the head, but before the neck.
    pub fn crest(&self, canvas: &mut Canvas, scene: &Scene<'_>) {
        if !self.crest {
            return;
        }
        let full = 0.08 * scene.character.hair.volume;
        let ball = scene.ball;
        // Spikes in a row from the forehead over the crown to the neck.
        let row: Vec<Vec2> = (0..=24)
            .map(|k| {
                let (sin, cos) = super::geometry::sin_cos(k as f32 * 8.2 - 6.0);
                // Forehead, crown, neck as an ellipse around the skull's middle.
                let far = 1.0 + if k % 2 == 0 { 0.0 } else { 0.45 + full };
                let p = vec3(0.0, -0.22 - 0.80 * sin * far, -0.10 + 0.86 * cos * (0.9 + 0.1 * far));
                scene.head.project(p)
            })
            .collect();
        let mut points = row;
        let thick = 0.17 * scene.head.scale;
        // Seen from the front the row is a fan.
        let top = scene.head.project(vec3(0.0, -1.42 - full, -0.1));
        let foot = scene.head.project(vec3(0.0, -0.7, 0.45));
        let fan = Path::default()
            .move_to(foot + vec2(-thick, 0.0))
            .through(&[foot.mix(top, 0.6) + vec2(-thick * 1.15, 0.0), top])
            .through(&[foot.mix(top, 0.6) + vec2(thick * 1.15, 0.0), foot + vec2(thick, 0.0)])
            .close();
        points.push(scene.head.project(vec3(0.0, 0.0, 0.0)));
        let paint = hair_paint(scene.character.hair.color, &scene.light, ball, 0.6, 0.0, 600.0);
        let color = scene.character.hair.color.line();
        let light = &scene.light;
        let ink = |p: Vec2, _: Color| (light.on(color, ball.normal(p)), 1.0);
        let side = Path::polygon(&points);
        canvas.fill(&side, &paint);
        let mut edge = points.clone();
        edge.pop();
        for pair in edge.windows(2) {
            canvas.fill(&Path::brush(pair, |_| LINE * 0.8), ink);
        }
        canvas.fill(&fan, &paint);
    }

    /// The front of a crest, on the head.
    fn crest_front(&self, canvas: &mut Canvas, scene: &Scene<'_>) {
        let skull = &scene.skull;
        let half = 0.17;
        let visible = |y: f32| {
            let section = skull.level(y);
            let sin = (half / section.width.max(half)).min(1.0);
            super::geometry::degrees(sin, (1.0 - sin * sin).max(0.0).sqrt())
        };
        let mut left = vec![];
        let mut right = vec![];
        for k in 0..=8 {
            let y = lerp(-0.64, -0.97, k as f32 / 8.0);
            let azimuth = visible(y);
            if scene.head.turn(skull.normal(0.0, y)).z < -0.1 {
                break;
            }
            left.push(scene.round(-azimuth, y, 0.03));
            right.push(scene.round(azimuth, y, 0.03));
        }
        if left.len() < 2 {
            return;
        }
        let full = 0.08 * scene.character.hair.volume;
        let top = scene.head.project(vec3(0.0, -1.42 - full, -0.05));
        let mut points = left.clone();
        let (l, r) = (left[left.len() - 1], right[right.len() - 1]);
        points.push(l.mix(top, 0.55) + (l - r) * 0.12);
        points.push(top);
        points.push(r.mix(top, 0.55) + (r - l) * 0.12);
        points.extend(right.iter().rev());
        let foot = left[0].mix(right[0], 0.5) + vec2(0.0, 0.018);
        points.push(foot);
        let path = Path::polygon(&points);
        let ball = scene.ball;
        let light = &scene.light;
        canvas.fill(&path, hair_paint(scene.character.hair.color, light, ball, 0.8, 0.0, 600.0));
        let color = scene.character.hair.color.line();
        points.push(points[0]);
        for pair in points.windows(2) {
            canvas.fill(&Path::brush(pair, |_| LINE * 0.75), |p, _| (light.on(color, ball.normal(p)), 0.9));
        }
        for share in [0.33, 0.66] {
            let strand = [left[0].mix(right[0], share), l.mix(r, share), top];
            canvas.fill(&Path::stroke(&strand, LINE * 0.6), |p, _| (light.on(color, ball.normal(p)), 0.5));
        }
    }

    /// What lies on the head.
    pub fn before(&self, canvas: &mut Canvas, scene: &Scene<'_>, head: &Mask) {
        for mass in &self.masses {
            mass.paint(canvas, scene, head);
        }
        if self.crest {
            self.crest_front(canvas, scene);
        }
        for lock in self.locks.iter().filter(|lock| lock.is_near(scene)) {
            lock.paint(canvas, scene, self.band);
        }
    }
}

impl Lock {
    /// Whether it is nearer to the viewer than the head's middle.
    fn is_near(&self, scene: &Scene<'_>) -> bool {
        let middle = self.line[self.line.len() / 2];
        if self.braided {
            return scene.head.turn(middle).z > -0.15;
        }
        scene.head.turn(middle).z > 0.1
    }

    fn radius(&self, t: f32) -> f32 {
        let [a, b, c] = self.radii;
        let (u, v, w) = ((1.0 - t) * (1.0 - t), 2.0 * t * (1.0 - t), t * t);
        // Through the middle radius, not just towards it.
        let middle = 2.0 * b - 0.5 * (a + c);
        u * a + v * middle + w * c
    }

    fn paint(&self, canvas: &mut Canvas, scene: &Scene<'_>, band: Color) {
        let hair = scene.character.hair.color;
        let light = &scene.light;
        let ink_color = hair.line();
        let scale = scene.head.scale;
        let line: Vec<Vec2> = self.line.iter().map(|p| scene.head.project(*p)).collect();
        let start = line[0];
        if line.len() == 1 {
            let radius = self.radii[0] * scale;
            let ball = Ball {
                center: start,
                radii: vec2(radius, radius),
            };
            let ink = |p: Vec2, _: Color| (light.on(ink_color, ball.normal(p)), 1.0);
            let whole = Path::circle(start, radius);
            canvas.fill(&Path::circle(start, radius + LINE * 0.8), ink);
            canvas.fill(&whole, hair_paint(hair, light, ball, 0.9, 40.0, 300.0));
            let mask = canvas.mask(&whole);
            // Wound hair.
            for k in 0..3 {
                let turn = 0.35 + 0.3 * k as f32;
                let arc: Vec<Vec2> = (0..6)
                    .map(|j| {
                        let (sin, cos) = super::geometry::sin_cos(200.0 + 34.0 * j as f32 + 30.0 * k as f32);
                        start + vec2(cos, sin * 0.9) * (radius * turn) + vec2(0.0, radius * 0.25)
                    })
                    .collect();
                canvas.fill_in(&Path::stroke(&arc, LINE * 0.7), &mask, |p, below| (below.mix(ink(p, below).0, 0.6), 1.0));
            }
            if self.band {
                let toward = (scene.head.project(vec3(0.0, -0.5, -0.1)) - start).unit();
                let at = start + toward * radius * 0.86;
                let across = toward.turned() * radius * 0.62;
                let tie = [at - across, at + toward * (radius * 0.12), at + across];
                canvas.fill(&Path::brush(&tie, |_| 0.022), |p, _| (light.on(band, ball.normal(p)), 1.0));
            }
            return;
        }
        let ball = Ball {
            center: line[line.len() / 2],
            radii: vec2(0.32, 0.42) * (scale / 0.245),
        };
        let ink = |p: Vec2, _: Color| (light.on(ink_color, ball.normal(p)), 1.0);
        if self.braided {
            // Overlapping leaves from the end up.
            let count = 7;
            let spans = (line.len() - 1) as f32;
            let tail = along(&line, spans);
            let before = along(&line, spans - 0.3);
            let end = tail + (tail - before).unit() * (0.20 * scale);
            let tuft = Path::brush(&[before, tail, end], |t| scale * 0.24 * (1.0 - 0.7 * t));
            canvas.fill(&tuft, hair_paint(hair, light, ball, 0.2, 0.0, 300.0));
            canvas.fill(&Path::circle(tail, 0.020), |p, _| (light.on(band, ball.normal(p)), 1.0));
            for k in (0..count).rev() {
                let t = k as f32 / count as f32;
                let p = along(&line, t * spans);
                let ahead = (along(&line, (t * spans + 0.1).min(spans)) - p).unit();
                let radius = self.radius(t) * scale;
                for half in [-1.0, 1.0] {
                    let center = p + ahead.turned() * (half * radius * 0.42);
                    let tilt = super::geometry::degrees(ahead.y, ahead.x) - half * 32.0;
                    let leaf = |grow: f32| Path::ellipse(center, vec2(radius * 0.95 + grow, radius * 0.58 + grow), tilt);
                    canvas.fill(&leaf(LINE * 0.55), ink);
                    let own = Ball {
                        center,
                        radii: vec2(radius * 1.3, radius * 1.3),
                    };
                    canvas.fill(&leaf(0.0), hair_paint(hair, light, own, 0.8, 0.0, 200.0));
                }
            }
            return;
        }
        let width = |t: f32| 2.0 * self.radius(t) * scale;
        canvas.fill(&Path::circle(start, self.radii[0] * scale + LINE * 0.8), ink);
        canvas.fill(&Path::brush(&line, |t| width(t) + LINE * 1.6), ink);
        let body = Path::brush(&line, width);
        canvas.fill(&body, hair_paint(hair, light, ball, 0.25, 0.0, 300.0));
        let mask = canvas.mask(&body);
        let steps = 12;
        let shifted = |by: f32| -> Vec<Vec2> {
            let spans = (line.len() - 1) as f32;
            (0..=steps)
                .map(|k| {
                    let t = k as f32 / steps as f32;
                    let p = along(&line, t * spans);
                    let ahead = along(&line, (t * spans + 0.05).min(spans)) - along(&line, (t * spans - 0.05).max(0.0));
                    p + ahead.unit().turned() * (by * self.radius(t) * scale)
                })
                .collect()
        };
        for by in [-0.45, 0.1, 0.55] {
            canvas.fill_in(&Path::stroke(&shifted(by), LINE * 0.7), &mask, |p, below| (below.mix(ink(p, below).0, 0.5), 1.0));
        }
        let bright = hair.mix(rgb(1.0, 0.98, 0.94), 0.42);
        let gleam = shifted(-0.15);
        canvas.fill_in(&Path::stroke(&gleam[2..7], LINE * 1.5), &mask, |p, _| (light.on(bright, ball.normal(p)), 0.7));
        if self.band {
            let ahead = (line[1] - line[0]).unit();
            let at = along(&line, 0.18);
            let across = ahead.turned() * (self.radius(0.04) * scale * 1.1);
            canvas.fill(&Path::brush(&[at - across, at + across], |_| 0.030), |p, _| (light.on(band, ball.normal(p)), 1.0));
        }
    }
}

impl Mass {
    fn open(&self) -> impl Fn(f32) -> f32 + '_ {
        move |y| match self.hangs {
            Some(edge) => edge * smoothstep(-0.75, -0.15, y),
            None => 0.0,
        }
    }

    /// The part behind the neck, which the head shades.
    fn behind(&self, canvas: &mut Canvas, scene: &Scene<'_>) {
        let path = self.outline(scene, &self.ring(scene));
        let ball = self.ball(scene);
        if self.edge.is_empty() {
            // All of it lies behind the head.
            let mask = canvas.mask(&path);
            let paint = hair_paint(self.color, &scene.light, ball, self.gloss, 0.0, 500.0);
            canvas.fill_mask(&mask, paint);
            self.curl_marks(canvas, scene, &mask, ball);
            return;
        }
        let outer = (self.color * 0.84).saturated(1.08);
        let inner = (self.color * 0.45).saturated(1.1);
        let light = &scene.light;
        let neck = scene.body.project(vec3(0.0, 1.0, 0.1));
        let reach = 0.72 * scene.head.scale;
        canvas.fill(&path, |p, _| {
            let d = vec2((p.x - neck.x) / reach, (p.y - neck.y) / (1.5 * reach)).length();
            let color = inner.mix(outer, smoothstep(0.45, 1.0, d));
            (light.on(color, ball.normal(p)), 1.0)
        });
    }

    /// Its head's part as a ball.
    fn ball(&self, scene: &Scene<'_>) -> Ball {
        let mut outline = self.body.outline_of(&scene.head, self.open());
        let low = scene.head.project(vec3(0.0, 0.62, 0.0)).y;
        outline.left.retain(|p| p.y < low);
        outline.right.retain(|p| p.y < low);
        around(&outline)
    }

    fn outline_points(&self, scene: &Scene<'_>) -> (Vec<Vec2>, Vec<Vec2>) {
        let outline = self.body.outline_of(&scene.head, self.open());
        let mut sides = [outline.left, outline.right];
        let wave = self.wave * scene.head.scale / 0.245;
        if wave > 0.0 {
            let top = scene.head.project(vec3(0.0, -0.4, 0.0)).y;
            for (k, side) in sides.iter_mut().enumerate() {
                for p in side.iter_mut() {
                    let down = (p.y - top).max(0.0);
                    let (sin, _) = super::geometry::sin_cos(down * 2600.0 + 90.0 * k as f32);
                    p.x += sin * wave * smoothstep(0.0, 0.25, down);
                }
            }
        }
        let [left, right] = sides;
        (left, right)
    }

    /// The edge of all of it, as if there were no opening, clockwise from the top.
    fn ring(&self, scene: &Scene<'_>) -> Vec<Vec2> {
        let (left, right) = self.outline_points(scene);
        if left.len() < 4 {
            return vec![];
        }
        let mut ring = right.clone();
        if self.hangs.is_some() && self.curls == 0.0 {
            // Tips along the lower end.
            let (from, to) = (right[right.len() - 1], left[left.len() - 1]);
            let count = self.tips * 2;
            for k in 1..count {
                let share = k as f32 / count as f32;
                let sag = 1.0 - (2.0 * share - 1.0) * (2.0 * share - 1.0);
                let down = if k % 2 == 0 { 0.030 } else { 0.010 };
                let p = from.mix(to, share);
                ring.push(p + vec2(0.0, 0.035 * sag + down));
            }
        }
        ring.extend(left.iter().rev());
        if self.spikes > 0.0 {
            return self.spiked(scene, &ring);
        }
        ring
    }

    /// The area within the ring.
    fn outline(&self, scene: &Scene<'_>, ring: &[Vec2]) -> Path {
        if ring.is_empty() {
            return Path::default();
        }
        if self.spikes > 0.0 {
            return Path::polygon(ring);
        }
        if self.curls == 0.0 {
            return Path::loop_through(ring);
        }
        let radius = self.curls * scene.head.scale;
        let mut last: Option<Vec2> = None;
        ring.iter().fold(Path::loop_through(ring), |path, p| {
            if last.is_some_and(|last| (*p - last).length() < radius * 0.9) {
                return path;
            }
            last = Some(*p);
            path.and(&Path::circle(*p, radius))
        })
    }

    /// An outline with spikes on the upper part.
    fn spiked(&self, scene: &Scene<'_>, ring: &[Vec2]) -> Vec<Vec2> {
        let low = scene.head.project(vec3(0.0, -0.52, 0.0)).y;
        let middle = scene.head.project(vec3(0.0, -0.2, 0.0));
        let scale = scene.head.scale;
        let mut random = Random::new(scene.character.seed, "spikes");
        let mut points = vec![ring[0]];
        let mut walked = 0.0;
        for pair in ring.windows(2) {
            if pair[1].y >= low {
                points.push(pair[1]);
                continue;
            }
            walked += (pair[1] - pair[0]).length();
            if walked > 0.30 * scale {
                walked = 0.0;
                let notch = points[points.len() - 1];
                let out = (notch.mix(pair[1], 0.5) - middle).unit();
                // Combed to one side.
                let lean = vec2(0.4 * scene.character.hair.side, -0.3);
                let length = self.spikes * scale * random.range(0.9, 1.5);
                points.push(notch.mix(pair[1], 0.5) + (out + lean).unit() * length);
                points.push(pair[1]);
            }
        }
        points
    }

    /// The edge of the opening as it is seen, and the area below it.
    fn opening(&self, scene: &Scene<'_>) -> (Vec<Vec2>, Path) {
        let toward = scene.head.toward_camera();
        let facing = super::geometry::degrees(toward.x, toward.z);
        let steps = (self.edge.len() - 1) * 4;
        let mut seen = vec![];
        let mut ends = [false, false];
        for k in 0..=steps {
            let p = along(&self.edge, k as f32 / 4.0);
            let off = (p.x - facing + 540.0).rem_euclid(360.0) - 180.0;
            // Short of a whole turn around, so that the two ends do not meet.
            if off.abs() > 112.0 || (p.x - facing).abs() > 200.0 {
                continue;
            }
            let normal = scene.head.turn(self.body.normal(p.x, p.y));
            let mut at = scene.head.project(self.body.point(p.x, p.y, 0.0));
            if normal.z < 0.0 {
                let out = vec2(normal.x, normal.y).unit();
                at = at + out * (-normal.z * 0.8 * scene.head.scale);
            }
            ends[0] |= k == 0;
            ends[1] |= k == steps;
            seen.push(at);
        }
        if seen.len() < 2 {
            return (seen, Path::default());
        }
        let mut area = seen.clone();
        let (first, last) = (seen[0], seen[seen.len() - 1]);
        let hangs = self.hangs.is_some();
        if !(hangs && ends[1]) {
            area.push(vec2(1.8, last.y));
        }
        area.push(vec2(if hangs && ends[1] { last.x } else { 1.8 }, 1.9));
        area.push(vec2(if hangs && ends[0] { first.x } else { -0.8 }, 1.9));
        if !(hangs && ends[0]) {
            area.push(vec2(-0.8, first.y));
        }
        let path = Path::polygon(&area);
        (seen, path)
    }

    fn paint(&self, canvas: &mut Canvas, scene: &Scene<'_>, head: &Mask) {
        if self.edge.is_empty() {
            return;
        }
        let mut ring = self.ring(scene);
        let outline = self.outline(scene, &ring);
        let whole = canvas.mask(&outline);
        let (edge, opening) = self.opening(scene);
        let open = canvas.mask(&opening);
        let mut mask = whole.clone();
        mask.subtract(&open);
        if self.curls > 0.0 {
            let radius = self.curls * scene.head.scale * 0.8;
            let mut last: Option<Vec2> = None;
            let mut scallops = Path::default();
            for p in &edge {
                if last.is_none_or(|l| (*p - l).length() > radius * 1.1) {
                    scallops = scallops.and(&Path::circle(*p, radius));
                    last = Some(*p);
                }
            }
            let mut scallops = canvas.mask(&scallops);
            scallops.intersect(&whole);
            mask.unite(&scallops);
        }

        // Its shadow on the face.
        let scale = scene.head.scale / 0.245;
        if self.gloss > 0.0 {
            let by = vec2(-0.006 * scene.light.side, 0.022) * scale;
            let mut shadow = canvas.soften(&mask, by, 0.012);
            shadow.intersect(head);
            canvas.fill_mask(&shadow, |_, below| (below * rgb(0.70, 0.55, 0.60), 0.55));
        }

        let ball = self.ball(scene);
        let light = &scene.light;
        let color = self.color;
        let mut random = Random::new(scene.character.seed, "gloss");
        let (phase, speed) = (random.range(0.0, 360.0), random.range(500.0, 700.0));
        let paint = hair_paint(color, light, ball, self.gloss, phase, speed);
        canvas.fill_mask(&mask, &paint);

        if self.gloss > 0.0 && let Some(streak) = scene.character.hair.streak {
            let from = 16.0 * scene.character.hair.side;
            let low = if self.hangs.is_some() { 2.0 } else { 0.2 };
            let points: Vec<Vec2> = [(0.6, -0.99), (1.0, -0.85), (1.9, -0.55), (3.0, -0.1), (4.2, 0.4), (4.5, low)]
                .iter()
                .map(|(x, y)| scene.head.project(self.body.point(from * x, *y, 0.0)))
                .collect();
            let shine = hair_paint(streak, light, ball, self.gloss, phase, speed);
            canvas.fill_in(&Path::brush(&points, |t| 0.052 * scale * smoothstep(-0.1, 0.3, t)), &mask, &shine);
        }

        // How it is combed.
        let dark = color.line().mix(color, 0.35);
        for strand in &self.strands {
            let visible: Vec<Vec2> = strand
                .iter()
                .filter(|p| scene.head.turn(self.body.normal(p.x, p.y)).z > 0.05)
                .map(|p| scene.head.project(self.body.point(p.x, p.y, 0.0)))
                .collect();
            if visible.len() > 1 {
                canvas.fill_in(&Path::stroke(&visible, 0.0075 * scale), &mask, |p, _| {
                    (light.on(dark, ball.normal(p)), 0.45)
                });
            }
        }

        let ink = color.line();
        if self.curls > 0.0 {
            self.curl_marks(canvas, scene, &mask, ball);
            return;
        }
        if self.gloss > 0.0 {
            if edge.len() > 3 {
                canvas.fill_in(&Path::brush(&edge, |_| LINE * 0.85), &whole, |p, _| (light.on(ink, ball.normal(p)), 0.9));
            }
            if !ring.is_empty() {
                ring.push(ring[0]);
                let mut line = canvas.mask(&self.line(&ring));
                line.subtract(&open);
                canvas.fill_mask(&line, |p, _| (light.on(ink, ball.normal(p)), 0.9));
            }
        }
    }
}

impl Mass {
    fn line(&self, points: &[Vec2]) -> Path {
        if self.spikes > 0.0 {
            // Corners stay corners.
            return points.windows(2).fold(Path::default(), |path, pair| {
                path.and(&Path::brush(pair, |_| LINE * 0.85))
            });
        }
        Path::brush(points, |_| LINE * 0.85)
    }

    /// Small arcs, dark and bright.
    fn curl_marks(&self, canvas: &mut Canvas, scene: &Scene<'_>, mask: &Mask, ball: Ball) {
        let mut random = Random::new(scene.character.seed, "curls");
        let light = &scene.light;
        let dark = self.color.line().mix(self.color, 0.25);
        let bright = self.color.mix(rgb(1.0, 0.98, 0.94), 0.35);
        let radius = self.curls * 0.62 * scene.head.scale;
        for k in 0..46 {
            let (azimuth, y) = (random.range(-180.0, 180.0), random.range(-1.25, 0.45));
            let turn = random.range(0.0, 360.0);
            let normal = scene.head.turn(self.body.normal(azimuth, y));
            if normal.z < 0.1 {
                continue;
            }
            let center = scene.head.project(self.body.point(azimuth, y, 0.0));
            let arc: Vec<Vec2> = (0..5)
                .map(|j| {
                    let (sin, cos) = super::geometry::sin_cos(turn + 55.0 * j as f32);
                    center + vec2(cos, sin) * radius
                })
                .collect();
            let color = if k % 3 == 0 { bright } else { dark };
            canvas.fill_in(&Path::stroke(&arc, LINE * 0.75), mask, |p, _| (light.on(color, ball.normal(p)), 0.5));
        }
    }
}

/// Hair with a ring of light around the crown.
fn hair_paint(
    color: Color,
    light: &Light,
    ball: Ball,
    gloss: f32,
    phase: f32,
    speed: f32,
) -> impl Fn(Vec2, Color) -> (Color, f32) + '_ {
    let bright = color.mix(rgb(1.0, 0.98, 0.94), 0.42).saturated(1.1);
    let deep = (color * 0.72).saturated(1.12);
    move |p: Vec2, _: Color| {
        let normal = ball.normal(p);
        let low = smoothstep(0.1, 1.3, (p.y - ball.center.y) / ball.radii.y);
        let base = color.mix(deep, 0.7 * low);
        let lit = light.on(base, normal);
        // The ring wobbles from strand to strand.
        let (wobble, _) = super::geometry::sin_cos(normal.x * speed + phase);
        let height = normal.y + 0.50 + 0.16 * normal.x * normal.x + 0.035 * wobble;
        let band = 1.0 - smoothstep(0.04, 0.17, height.abs());
        let facing = smoothstep(-0.5, 0.7, normal.x * light.toward.x + 0.3);
        let shine = light.on(bright, normal);
        (lit.mix(shine, gloss * band * (0.30 + 0.60 * facing)), 1.0)
    }
}
