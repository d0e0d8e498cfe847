//! The cuts.

use super::super::character::Cut;
use super::super::geometry::{Vec2, Vec3, vec3};
use super::super::scene::Scene;
use super::super::surface::{Surface, section};
use super::Hair;
use super::lock::Lock;
use super::mass::Mass;
use super::shapes::{
    around_ears, at, combed, curtain, flipped, hanging, hanging_sections, mirrored, parted, quiff,
    short, straight, top_only,
};

/// The bodies and locks of a character's cut.
pub(super) fn hair(scene: &Scene<'_>) -> Hair {
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
    let middle = [
        at(0.0, -0.86),
        at(9.0, -0.72),
        at(27.0, -0.50),
        at(46.0, -0.24),
    ];
    let blunt = [
        at(0.0, -0.33),
        at(25.0, -0.34),
        at(44.0, -0.32),
        at(54.0, -0.22),
    ];
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
    let knot = |center: Vec3, radius: f32| Lock::Knot { center, radius };
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
                    flipped(hanging_sections(
                        skull,
                        [0.13 + full, 0.11 + full, 0.07, 0.13],
                        1.10,
                        0.0,
                    )),
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
            locks.push(Lock::Tail {
                line: vec![
                    vec3(0.0, -0.78, -0.78),
                    vec3(0.0, -0.95, -1.22),
                    vec3(side * 0.08, -0.35, -1.62),
                    vec3(side * 0.16, 0.45, -1.50),
                    vec3(side * 0.10, 1.15, -1.25),
                ],
                radii: [0.13, 0.27 + full, 0.03],
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
                locks.push(Lock::Tail {
                    line: vec![
                        vec3(side * 0.70, -0.52, -0.25),
                        vec3(side * 1.16, -0.42, -0.34),
                        vec3(side * 1.30, 0.25, -0.36),
                        vec3(side * 1.16, 0.95, -0.24),
                        vec3(side * 1.24, 1.5, -0.18),
                    ],
                    radii: [0.11, 0.25 + full, 0.03],
                    band: true,
                });
            }
            let points = mirrored(&[
                at(0.0, -0.34),
                at(14.0, -0.30),
                at(28.0, -0.38),
                at(42.0, -0.28),
                at(54.0, -0.22),
            ]);
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
            locks.push(knot(vec3(0.0, -1.26, -0.22), 0.36 + full));
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
                locks.push(knot(vec3(side * 0.64, -1.02, -0.12), 0.31 + full));
            }
            let points = mirrored(&[
                at(0.0, -0.60),
                at(8.0, -0.40),
                at(26.0, -0.30),
                at(44.0, -0.30),
                at(54.0, -0.20),
            ]);
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
            locks.push(Lock::Braid {
                line: vec![
                    vec3(side * 0.62, 0.62, -0.50),
                    vec3(side * 0.86, 0.98, -0.22),
                    vec3(side * 0.84, 1.34, 0.16),
                    vec3(side * 0.70, 1.75, 0.38),
                    vec3(side * 0.64, 2.10, 0.44),
                ],
                radii: [0.17, 0.20, 0.10],
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
        Cut::Quiff => {
            // A wave that rolls over the forehead to one side.
            locks.push(Lock::Tail {
                line: vec![
                    vec3(side * -0.50, -0.66, 0.44),
                    vec3(side * -0.30, -0.98, 0.62),
                    vec3(side * 0.10, -1.16, 0.66),
                    vec3(side * 0.46, -1.02, 0.56),
                    vec3(side * 0.62, -0.74, 0.36),
                ],
                radii: [0.10, 0.27 + full, 0.05],
                band: false,
            });
            vec![
                shaved(0.55),
                Mass {
                    strands: combed(-0.64),
                    ..mass(quiff(skull, 0.16 + full), top_only(-0.62, -0.52), None)
                },
            ]
        }
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
            locks.push(knot(vec3(0.0, -1.14, -0.46), 0.27 + full));
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
                    &[
                        at(0.0, -0.72),
                        at(12.0, -0.74),
                        at(30.0, -0.58),
                        at(48.0, -0.28),
                    ],
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
    Hair {
        masses,
        locks,
        crest,
        ..Hair::default()
    }
}
