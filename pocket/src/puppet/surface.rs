//! A rounded body in space, made of level sections, and its outline from any side.

use super::geometry::{Vec2, Vec3, View, degrees, lerp, sin_cos, smoothstep, vec3};

/// A level cut through a body: two half ellipses that share their width.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Section {
    /// Height, downwards.
    pub y: f32,
    /// Where the widest line lies.
    pub z: f32,
    /// Half the width.
    pub width: f32,
    /// From the widest line to the front.
    pub front: f32,
    /// From the widest line to the back.
    pub back: f32,
}

/// A section from `[y, z, width, front, back]`.
pub(crate) const fn section([y, z, width, front, back]: [f32; 5]) -> Section {
    Section {
        y,
        z,
        width,
        front,
        back,
    }
}

impl Section {
    fn combine(parts: [(&Self, f32); 4]) -> Self {
        let sum = |part: fn(&Self) -> f32| parts.iter().map(|(s, w)| part(s) * w).sum();
        Self {
            y: sum(|s| s.y),
            z: sum(|s| s.z),
            width: sum(|s| s.width),
            front: sum(|s| s.front),
            back: sum(|s| s.back),
        }
    }

    fn mirrored(&self) -> Self {
        Self {
            width: -self.width,
            front: -self.front,
            back: -self.back,
            ..*self
        }
    }

    /// The point at an azimuth given by its sine and cosine; 0° is the front, 90° the picture's right of a face seen from the front.
    fn point(&self, sin: f32, cos: f32) -> Vec3 {
        let depth = if cos >= 0.0 { self.front } else { self.back };
        vec3(self.width * sin, self.y, self.z + depth * cos)
    }
}

/// A rounded body, from its top to its bottom.
#[derive(Clone, Debug)]
pub(crate) struct Surface {
    /// Controls of a Catmull-Rom spline; the first and the last are the neighbours of the ends.
    controls: Vec<Section>,
    /// Places between the ends, and their sections and slopes.
    rings: Vec<(f32, Section, Section)>,
}

/// The outline of a body as it is seen, each side from top to bottom.
#[derive(Clone, Debug, Default)]
pub(crate) struct Outline {
    pub left: Vec<Vec2>,
    pub right: Vec<Vec2>,
}

impl Outline {
    /// All around, clockwise from the top.
    pub fn ring(&self) -> Vec<Vec2> {
        let right = self.right.iter().copied();
        right.chain(self.left.iter().rev().copied()).collect()
    }
}

const RINGS: usize = 40;

impl Surface {
    /// Through these sections. An end of no width is round.
    pub fn through(sections: &[Section]) -> Self {
        let (first, last) = (&sections[0], &sections[sections.len() - 1]);
        let (second, before) = (&sections[1], &sections[sections.len() - 2]);
        let beyond = |end: &Section, next: &Section| {
            if end.width < 1e-4 {
                next.mirrored()
            } else {
                Section::combine([(end, 2.0), (next, -1.0), (end, 0.0), (end, 0.0)])
            }
        };
        let mut controls = vec![beyond(first, second)];
        controls.extend_from_slice(sections);
        controls.push(beyond(last, before));
        let mut surface = Self {
            controls,
            rings: vec![],
        };
        let spans = (sections.len() - 1) as f32;
        surface.rings = (0..=RINGS)
            .map(|i| {
                let t = i as f32 / RINGS as f32 * spans;
                let (section, slope) = surface.at(t);
                (t, section, slope)
            })
            .collect();
        surface
    }

    /// The section and its slope at `t`, which counts the sections that it was made through.
    fn at(&self, t: f32) -> (Section, Section) {
        let spans = self.controls.len() - 3;
        let i = (t.max(0.0) as usize).min(spans - 1);
        let u = t - i as f32;
        let (u2, u3) = (u * u, u * u * u);
        let [a, b, c, d] = [0, 1, 2, 3].map(|k| &self.controls[i + k]);
        let weights = [
            -0.5 * u3 + u2 - 0.5 * u,
            1.5 * u3 - 2.5 * u2 + 1.0,
            -1.5 * u3 + 2.0 * u2 + 0.5 * u,
            0.5 * u3 - 0.5 * u2,
        ];
        let slopes = [
            -1.5 * u2 + 2.0 * u - 0.5,
            4.5 * u2 - 5.0 * u,
            -4.5 * u2 + 4.0 * u + 0.5,
            1.5 * u2 - u,
        ];
        let with = |w: [f32; 4]| Section::combine([(a, w[0]), (b, w[1]), (c, w[2]), (d, w[3])]);
        (with(weights), with(slopes))
    }

    /// The section at a height.
    pub fn level(&self, y: f32) -> Section {
        let rings = &self.rings;
        let i = rings.partition_point(|(_, ring, _)| ring.y < y);
        if i == 0 {
            return rings[0].1;
        }
        if i == rings.len() {
            return rings[rings.len() - 1].1;
        }
        let (a, b) = (&rings[i - 1].1, &rings[i].1);
        let share = (y - a.y) / (b.y - a.y).max(1e-6);
        let mix = |part: fn(&Section) -> f32| lerp(part(a), part(b), share);
        Section {
            y,
            z: mix(|s| s.z),
            width: mix(|s| s.width),
            front: mix(|s| s.front),
            back: mix(|s| s.back),
        }
    }

    /// The point at an azimuth in degrees and a height, `lift` outside of the body.
    pub fn point(&self, azimuth: f32, y: f32, lift: f32) -> Vec3 {
        let section = self.level(y);
        let (sin, cos) = sin_cos(azimuth);
        section.point(sin, cos) + vec3(sin * lift, 0.0, cos * lift)
    }

    /// The point of the front half that lies at `x` seen from the front, `lift` outside of the body; where that is out of the
    /// camera's sight, the nearest point that is in sight.
    pub fn front(&self, view: &View, x: f32, y: f32, lift: f32) -> Vec3 {
        let share = (x / self.level(y).width.max(1e-3)).clamp(-1.0, 1.0);
        let azimuth = degrees(share, (1.0 - share * share).max(0.0).sqrt());
        let seen = self.in_sight(view, azimuth, y).clamp(-90.0, 90.0);
        // What is out of sight does not stand out of the edge.
        let lift = lift * (1.0 - smoothstep(0.0, 8.0, (azimuth - seen).abs()));
        self.point(seen, y, lift)
    }

    /// The azimuth in sight that is nearest to one in degrees, at a height.
    pub fn in_sight(&self, view: &View, azimuth: f32, y: f32) -> f32 {
        let section = self.level(y);
        let toward = view.toward_camera();
        let facing = degrees(
            toward.x / section.width.max(1e-3),
            toward.z / section.front.max(1e-3),
        );
        azimuth.clamp(facing - 88.0, facing + 88.0)
    }

    /// The direction out of the body, at an azimuth in degrees and a height.
    pub fn normal(&self, azimuth: f32, y: f32) -> Vec3 {
        let i = self.rings.partition_point(|(_, ring, _)| ring.y < y);
        let (_, section, slope) = &self.rings[i.min(self.rings.len() - 1)];
        let (sin, cos) = sin_cos(azimuth);
        normal(section, slope, sin, cos).unit()
    }

    /// What is seen as its edge: where the surface turns away from the camera.
    pub fn outline(&self, view: &View) -> Outline {
        self.outline_of(view, |_| 0.0)
    }

    /// As [`Surface::outline`], for a surface that is open in front: `open` is the azimuth from which there is something, by height.
    pub fn outline_of(&self, view: &View, open: impl Fn(f32) -> f32) -> Outline {
        let toward = view.toward_camera();
        let facing = degrees(toward.x, toward.z);
        const STEP: f32 = 12.0;
        let fan: Vec<[(f32, f32); 2]> = (0..=15)
            .map(|k| [-1.0, 1.0].map(|side| sin_cos(facing + side * STEP * k as f32)))
            .collect();
        let camera = view.camera();
        let turned = |section: &Section, slope: &Section, sin: f32, cos: f32| {
            let away = camera - section.point(sin, cos);
            normal(section, slope, sin, cos).dot(away)
        };
        // Where one side of a ring turns away; nothing where all of the ring is seen, or none of it.
        let edge = |section: &Section, slope: &Section, side: usize| {
            // From the back to the front, so that a dent in front does no harm.
            let mut after = turned(
                section,
                slope,
                fan[fan.len() - 1][side].0,
                fan[fan.len() - 1][side].1,
            );
            if after > 0.0 {
                return None;
            }
            for k in (1..fan.len()).rev() {
                let before = turned(section, slope, fan[k - 1][side].0, fan[k - 1][side].1);
                if before > 0.0 {
                    let sign = if side == 0 { -1.0 } else { 1.0 };
                    let mut share = before / (before - after);
                    let azimuth = |share: f32| facing + sign * STEP * (k as f32 - 1.0 + share);
                    // One more step of the secant method is enough for a tenth of a pixel.
                    let (sin, cos) = sin_cos(azimuth(share));
                    let middle = turned(section, slope, sin, cos);
                    share = if middle > 0.0 {
                        share + (1.0 - share) * middle / (middle - after)
                    } else {
                        share * before / (before - middle)
                    };
                    let azimuth = azimuth(share);
                    let (sin, cos) = sin_cos(azimuth);
                    let at = |sin: f32, cos: f32| view.project(section.point(sin, cos));
                    let open = open(section.y);
                    let around = (azimuth + 540.0).rem_euclid(360.0) - 180.0;
                    if around.abs() >= open {
                        return Some(at(sin, cos));
                    }
                    // The two edges of the opening: the one farther out is seen.
                    let (sin, cos) = sin_cos(open);
                    let (a, b) = (at(sin, cos), at(-sin, cos));
                    return Some(if (a.x > b.x) == (side == 1) { a } else { b });
                }
                after = before;
            }
            None
        };
        let both = |section: &Section, slope: &Section| {
            Some((edge(section, slope, 0)?, edge(section, slope, 1)?))
        };
        let edges: Vec<Option<(Vec2, Vec2)>> = self
            .rings
            .iter()
            .map(|(_, section, slope)| both(section, slope))
            .collect();
        // The longest run of rings that turn away: an overhang may make a short one of its own.
        let (mut first, mut last, mut start) = (0, 0, None);
        for (i, edge) in edges.iter().enumerate() {
            match (edge, start) {
                (Some(_), None) => start = Some(i),
                (None, Some(from)) => {
                    if i - from > last - first {
                        (first, last) = (from, i);
                    }
                    start = None;
                }
                _ => {}
            }
        }
        if let Some(from) = start
            && edges.len() - from > last - first
        {
            (first, last) = (from, edges.len());
        }
        // Near an end of the outline its two sides run together fast: look closer there.
        let closer = |mut shown: f32, mut hidden: f32| {
            let mut found = vec![];
            for _ in 0..7 {
                let middle = 0.5 * (shown + hidden);
                let (section, slope) = self.at(middle);
                match both(&section, &slope) {
                    Some(pair) => {
                        found.push(pair);
                        shown = middle;
                    }
                    None => hidden = middle,
                }
            }
            found
        };
        let t = |i: usize| self.rings[i].0;
        let mut pairs = vec![];
        if first > 0 && last > first {
            pairs.extend(closer(t(first), t(first - 1)).into_iter().rev());
        }
        pairs.extend(edges[first..last].iter().flatten().copied());
        if last > first && last < edges.len() {
            pairs.extend(closer(t(last - 1), t(last)));
        }
        let (left, right) = pairs.into_iter().unzip();
        Outline { left, right }
    }
}

fn normal(section: &Section, slope: &Section, sin: f32, cos: f32) -> Vec3 {
    let (depth, depth_slope) = if cos >= 0.0 {
        (section.front, slope.front)
    } else {
        (section.back, slope.back)
    };
    vec3(
        depth * sin * slope.y,
        -depth * sin * slope.width * sin - section.width * cos * (slope.z + depth_slope * cos),
        section.width * cos * slope.y,
    )
}
