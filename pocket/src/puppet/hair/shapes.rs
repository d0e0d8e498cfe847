//! Bodies and hairlines that cuts are made of.

use super::super::geometry::{Vec2, lerp, vec2};
use super::super::surface::{Section, Surface};

pub(super) const fn at(azimuth: f32, y: f32) -> Vec2 {
    vec2(azimuth, y)
}

/// A body that lies around the skull: how much thicker at the top, the sides, the front and the back.
pub(super) fn shell(skull: &Surface, [top, side, front, back]: [f32; 4]) -> Vec<Section> {
    let mut sections = vec![];
    let first = skull.level(-0.9999);
    sections.push(Section {
        y: -1.0 - top,
        width: 0.0,
        front: 0.0,
        back: 0.0,
        ..first
    });
    for (y, rise) in [
        (-0.955, 0.95),
        (-0.80, 0.8),
        (-0.55, 0.45),
        (-0.25, 0.15),
        (0.02, 0.0),
        (0.26, 0.0),
    ] {
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
pub(super) fn short(skull: &Surface, thick: [f32; 4]) -> Surface {
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
pub(super) fn hanging(skull: &Surface, thick: [f32; 4], end: f32, spread: f32) -> Surface {
    Surface::through(&hanging_sections(skull, thick, end, spread))
}

pub(super) fn hanging_sections(
    skull: &Surface,
    thick: [f32; 4],
    end: f32,
    spread: f32,
) -> Vec<Section> {
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
pub(super) fn flipped(mut sections: Vec<Section>) -> Surface {
    let last = sections.len();
    for (section, grown) in sections[last - 4..]
        .iter_mut()
        .zip([0.98, 0.96, 1.04, 1.42])
    {
        section.width *= grown;
        section.back *= grown;
    }
    Surface::through(&sections)
}

/// Short hair that rises in front.
pub(super) fn quiff(skull: &Surface, rise: f32) -> Surface {
    let mut sections = shell(skull, [rise, 0.03, 0.10, 0.04]);
    // The top leans forward.
    for (section, lean) in sections.iter_mut().zip([0.22, 0.24, 0.16, 0.06]) {
        section.z += lean;
        section.front += lean * 0.3;
    }
    Surface::through(&sections)
}

/// The hairline of short hair: over the forehead at `forehead`, around the ears, to the neck.
pub(super) fn around_ears(forehead: f32, temple: f32, burn: f32) -> Vec<Vec2> {
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
pub(super) fn curtain(forehead: &[Vec2], edge: f32, end: f32) -> Vec<Vec2> {
    let mut half = forehead.to_vec();
    half.push(at(edge - 4.0, 0.05));
    half.push(at(edge, 0.45));
    // Towards its ends the hair runs together.
    half.push(at(edge + 2.0, lerp(0.45, end, 0.5)));
    half.push(at(edge + 24.0, end + 0.02));
    half.push(at(edge + 40.0, end + 0.5));
    mirrored(&half)
}

pub(super) fn mirrored(half: &[Vec2]) -> Vec<Vec2> {
    let mut all: Vec<Vec2> = half.iter().rev().map(|p| at(-p.x, p.y)).collect();
    all.extend_from_slice(if half[0].x == 0.0 { &half[1..] } else { half });
    all
}

/// Lines from a parting at azimuth `from` on the crown, to both sides.
pub(super) fn parted(from: f32, top: f32, low: f32) -> Vec<Vec<Vec2>> {
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
pub(super) fn straight(top: f32, low: f32) -> Vec<Vec<Vec2>> {
    (-9..=9)
        .map(|k| {
            let azimuth = k as f32 * 18.0 + 6.0;
            vec![
                at(azimuth, top),
                at(azimuth + 2.0, lerp(top, low, 0.5)),
                at(azimuth, low),
            ]
        })
        .collect()
}

/// Lines that are combed back from the hairline.
pub(super) fn combed(forehead: f32) -> Vec<Vec<Vec2>> {
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
pub(super) fn top_only(forehead: f32, side: f32) -> Vec<Vec2> {
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
