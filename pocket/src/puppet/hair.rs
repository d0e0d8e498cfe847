//! Hair: bodies around the head, cut open where the face is.

use super::canvas::{Canvas, Mask, Path, taper};
use super::character::Cut;
use super::color::{Color, hex, rgb};
use super::face::LINE;
use super::geometry::{Vec2, Vec3, along, lerp, smoothstep, vec2, vec3};
use super::light::Light;
use super::random::Random;
use super::scene::{Ball, Scene, around};
use super::surface::{Section, Surface};

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
    /// How many points the lower end has.
    tips: usize,
    /// Lines that show how it is combed, as azimuth and height.
    strands: Vec<Vec<Vec2>>,
    /// How much it shines.
    gloss: f32,
    streak: bool,
}

/// Something that stands out of the hair: a tail, a knot.
#[derive(Debug)]
struct Lock {
    /// Its middle line in space.
    line: Vec<Vec3>,
    /// Its radius at the start, in the middle and at the end.
    radii: [f32; 3],
    knots: bool,
    band: bool,
}

/// All hair of a character.
#[derive(Debug)]
pub(crate) struct Hair {
    masses: Vec<Mass>,
    locks: Vec<Lock>,
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

/// The shell of short hair, down to the neck.
fn short(skull: &Surface, thick: [f32; 4]) -> Surface {
    let mut sections = shell(skull, thick);
    let [_, side, _, back] = thick;
    let s = skull.level(0.26);
    sections.push(Section {
        y: 0.55,
        z: 0.0,
        width: s.width * 0.80 + side * 0.4,
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
    half.push(at(edge, 0.9));
    half.push(at(edge, end + 0.4));
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

impl Hair {
    pub fn new(scene: &Scene<'_>) -> Option<Self> {
        let character = scene.character;
        let skull = &scene.skull;
        let hair = character.hair;
        let full = 0.05 * hair.volume;
        let color = hair.color;
        let side = hair.side;
        let mass = |body: Surface, edge: Vec<Vec2>, hangs: Option<f32>| Mass {
            body,
            edge,
            hangs,
            color,
            wave: 0.0,
            curls: 0.0,
            tips: 9,
            strands: vec![],
            gloss: 1.0,
            streak: true,
        };
        // Shaved sides: a shadow of hair on the skin.
        let shaved = |strength: f32| Mass {
            color: character.skin.mix(color * 0.8, strength),
            gloss: 0.0,
            streak: false,
            ..mass(short(skull, [0.015, 0.012, 0.012, 0.012]), around_ears(-0.66, -0.30, 0.10), None)
        };
        let centre = [at(0.0, -0.80), at(10.0, -0.72), at(28.0, -0.52), at(48.0, -0.26)];
        let blunt = [at(0.0, -0.335), at(25.0, -0.34), at(48.0, -0.32), at(58.0, -0.24)];
        let swept = |low: f32| {
            // From the parting on one side across the forehead to the other.
            let mut points = vec![
                at(-44.0, -0.36),
                at(-34.0, -0.58),
                at(-24.0, -0.70),
                at(-6.0, -0.60),
                at(16.0, -0.48),
                at(36.0, low),
            ];
            if side < 0.0 {
                points = points.into_iter().rev().map(|p| at(-p.x, p.y)).collect();
            }
            points
        };
        let mut locks = vec![];
        let masses = match hair.cut {
            Cut::Bald => vec![],
            Cut::Buzz => vec![shaved(0.62)],
            Cut::Long => vec![Mass {
                strands: parted(0.0, -0.98, 1.9),
                ..mass(hanging(skull, [0.10 + full, 0.085 + full, 0.05, 0.10], 1.75, 0.10), curtain(&centre, 68.0, 1.75), Some(68.0))
            }],
            Cut::Princess => {
                let mut front = blunt.to_vec();
                front.push(at(60.0, 0.20));
                front.push(at(56.0, 0.52));
                front.push(at(66.0, 0.56));
                vec![Mass {
                    strands: straight(-0.95, 1.9),
                    ..mass(hanging(skull, [0.10 + full, 0.09 + full, 0.07, 0.10], 1.8, 0.06), curtain(&front, 74.0, 1.8), Some(70.0))
                }]
            }
            Cut::Wavy => {
                let mut edge: Vec<Vec2> = vec![at(-66.0, 2.1), at(-68.0, 0.9), at(-70.0, 0.45), at(-62.0, 0.05)];
                edge.extend(swept(-0.26));
                edge.extend([at(62.0, 0.05), at(70.0, 0.45), at(68.0, 0.9), at(66.0, 2.1)]);
                vec![Mass {
                    wave: 0.030,
                    strands: parted(-30.0 * side, -0.95, 1.7),
                    ..mass(hanging(skull, [0.15 + full, 0.15 + full, 0.06, 0.14], 1.6, 0.26), edge, Some(68.0))
                }]
            }
            Cut::Bob => vec![Mass {
                tips: 3,
                strands: straight(-0.95, 0.95),
                ..mass(hanging(skull, [0.10 + full, 0.12 + full, 0.08, 0.12], 0.80, 0.10), curtain(&blunt, 60.0, 0.8), Some(60.0))
            }],
            Cut::Flip => {
                let front = [at(0.0, -0.78), at(10.0, -0.62), at(26.0, -0.40), at(46.0, -0.20), at(56.0, -0.06)];
                vec![Mass {
                    wave: 0.012,
                    tips: 7,
                    strands: parted(0.0, -0.98, 1.2),
                    ..mass(hanging(skull, [0.11 + full, 0.10 + full, 0.07, 0.12], 1.12, 0.34), curtain(&front, 66.0, 1.1), Some(66.0))
                }]
            }
            _ => {
                let _ = &mut locks;
                vec![Mass {
                    strands: parted(-30.0 * side, -0.95, 0.0),
                    ..mass(short(skull, [0.10 + full, 0.05 + full, 0.06, 0.07]), around_ears(-0.62, -0.30, 0.05), None)
                }]
            }
        };
        (!masses.is_empty()).then_some(Self { masses, locks })
    }

    /// What lies behind neck and shoulders.
    pub fn behind(&self, canvas: &mut Canvas, scene: &Scene<'_>) {
        for mass in &self.masses {
            if mass.hangs.is_none() {
                continue;
            }
            let path = mass.outline(scene);
            let ball = mass.ball(scene);
            let dark = (mass.color * 0.62).saturated(1.1);
            let light = &scene.light;
            canvas.fill(&path, |p, _| {
                let low = smoothstep(ball.center.y, ball.center.y + ball.radii.y * 1.6, p.y);
                (light.on(dark.mix(dark * 0.8, low), ball.normal(p)), 1.0)
            });
        }
    }

    /// What lies on the head.
    pub fn before(&self, canvas: &mut Canvas, scene: &Scene<'_>, head: &Mask) {
        for mass in &self.masses {
            mass.paint(canvas, scene, head);
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
        let wave = self.wave * scene.head.scale / 0.228;
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

    /// All of it, as if there were no opening.
    fn outline(&self, scene: &Scene<'_>) -> Path {
        let (left, right) = self.outline_points(scene);
        if left.len() < 4 {
            return Path::default();
        }
        let mut ring = right.clone();
        if self.hangs.is_some() {
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
        let path = Path::loop_through(&ring);
        if self.curls > 0.0 {
            let radius = self.curls * scene.head.scale;
            let mut path = path;
            let mut last: Option<Vec2> = None;
            for p in ring.iter() {
                if last.is_none_or(|l| (*p - l).length() > radius * 0.9) {
                    path = path.and(&Path::circle(*p, radius));
                    last = Some(*p);
                }
            }
            return path;
        }
        path
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
        let outline = self.outline(scene);
        let whole = canvas.mask(&outline);
        let (edge, opening) = self.opening(scene);
        let open = canvas.mask(&opening);
        let mut mask = whole.clone();
        mask.subtract(&open);

        // Its shadow on the face.
        let scale = scene.head.scale / 0.228;
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

        if self.streak && let Some(streak) = scene.character.hair.streak {
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
        if self.gloss > 0.0 {
            if edge.len() > 3 {
                canvas.fill_in(&Path::brush(&edge, |_| LINE * 0.85), &whole, |p, _| (light.on(ink, ball.normal(p)), 0.9));
            }
            let (left, right) = self.outline_points(scene);
            for side in [left, right] {
                if side.len() > 3 && self.curls == 0.0 {
                    let mut line = canvas.mask(&Path::brush(&side, |t| LINE * 0.9 * taper(0.1 + 0.8 * t)));
                    line.subtract(&open);
                    canvas.fill_mask(&line, |p, _| (light.on(ink, ball.normal(p)), 0.9));
                }
            }
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

#[allow(dead_code)]
fn unused(lock: &Lock) -> (bool, usize, [f32; 3], bool, Color) {
    (lock.knots, lock.line.len(), lock.radii, lock.band, hex(0))
}
