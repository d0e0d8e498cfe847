//! Paths, the coverage that they have of each pixel, and paint.

use zeno::{Command, Point, Scratch, Transform};

use super::color::{Color, rgb};
use super::geometry::{Vec2, along, vec2};

/// Points of a path stay within this many pictures of the middle: more is never seen, and the rasterizer's numbers have an end.
const FAR: f32 = 1.6;

/// The outline of an area, in picture units.
#[derive(Clone, Debug)]
pub(crate) struct Path {
    commands: Vec<Command>,
    low: Vec2,
    high: Vec2,
    at: Vec2,
}

impl Default for Path {
    fn default() -> Self {
        Self {
            commands: Vec::with_capacity(32),
            low: vec2(f32::MAX, f32::MAX),
            high: vec2(f32::MIN, f32::MIN),
            at: vec2(0.0, 0.0),
        }
    }
}

impl Path {
    fn point(&mut self, p: Vec2) -> Point {
        let p = vec2(
            p.x.clamp(0.5 - FAR, 0.5 + FAR),
            p.y.clamp(0.5 - FAR, 0.5 + FAR),
        );
        self.low = vec2(self.low.x.min(p.x), self.low.y.min(p.y));
        self.high = vec2(self.high.x.max(p.x), self.high.y.max(p.y));
        Point::new(p.x, p.y)
    }

    pub fn move_to(mut self, p: Vec2) -> Self {
        let point = self.point(p);
        self.commands.push(Command::MoveTo(point));
        self.at = p;
        self
    }

    pub fn line_to(mut self, p: Vec2) -> Self {
        let point = self.point(p);
        self.commands.push(Command::LineTo(point));
        self.at = p;
        self
    }

    pub fn cubic_to(mut self, c1: Vec2, c2: Vec2, p: Vec2) -> Self {
        let (c1, c2, point) = (self.point(c1), self.point(c2), self.point(p));
        self.commands.push(Command::CurveTo(c1, c2, point));
        self.at = p;
        self
    }

    /// From where the path is, smoothly through these points.
    pub fn through(self, points: &[Vec2]) -> Self {
        let mut all = Vec::with_capacity(points.len() + 1);
        all.push(self.at);
        all.extend_from_slice(points);
        let tangent = |k: usize| match k {
            0 => (all[1] - all[0]) * 0.7,
            k if k + 1 == all.len() => (all[k] - all[k - 1]) * 0.7,
            k => (all[k + 1] - all[k - 1]) * 0.5,
        };
        (1..all.len()).fold(self, |path, k| {
            let c1 = all[k - 1] + tangent(k - 1) * (1.0 / 3.0);
            let c2 = all[k] - tangent(k) * (1.0 / 3.0);
            path.cubic_to(c1, c2, all[k])
        })
    }

    pub fn close(mut self) -> Self {
        self.commands.push(Command::Close);
        self
    }

    /// Two areas as one.
    pub fn and(mut self, other: &Self) -> Self {
        self.commands.extend_from_slice(&other.commands);
        self.low = vec2(self.low.x.min(other.low.x), self.low.y.min(other.low.y));
        self.high = vec2(self.high.x.max(other.high.x), self.high.y.max(other.high.y));
        self
    }

    pub fn polygon(points: &[Vec2]) -> Self {
        let mut path = Self::default();
        for (i, p) in points.iter().enumerate() {
            path = if i == 0 {
                path.move_to(*p)
            } else {
                path.line_to(*p)
            };
        }
        path.close()
    }

    /// The closed smooth curve through these points.
    pub fn loop_through(points: &[Vec2]) -> Self {
        let n = points.len();
        let at = |k: usize| points[k % n];
        let mut path = Self::default().move_to(points[0]);
        for k in 0..n {
            let (a, b, c, d) = (at(k + n - 1), at(k), at(k + 1), at(k + 2));
            path = path.cubic_to(b + (c - a) * (1.0 / 6.0), c - (d - b) * (1.0 / 6.0), c);
        }
        path.close()
    }

    pub fn ellipse(center: Vec2, radii: Vec2, turned: f32) -> Self {
        let (sin, cos) = super::geometry::sin_cos(turned);
        let at = |x: f32, y: f32| {
            let (x, y) = (x * radii.x, y * radii.y);
            center + vec2(x * cos - y * sin, x * sin + y * cos)
        };
        const K: f32 = 0.552_284_8;
        Self::default()
            .move_to(at(1.0, 0.0))
            .cubic_to(at(1.0, K), at(K, 1.0), at(0.0, 1.0))
            .cubic_to(at(-K, 1.0), at(-1.0, K), at(-1.0, 0.0))
            .cubic_to(at(-1.0, -K), at(-K, -1.0), at(0.0, -1.0))
            .cubic_to(at(K, -1.0), at(1.0, -K), at(1.0, 0.0))
            .close()
    }

    pub fn circle(center: Vec2, radius: f32) -> Self {
        Self::ellipse(center, vec2(radius, radius), 0.0)
    }

    /// A brush line along the curve through `points`; `width` gives its whole width at 0 (the start) to 1 (the end).
    pub fn brush(points: &[Vec2], width: impl Fn(f32) -> f32) -> Self {
        if points.len() < 2 {
            return Self::default();
        }
        let spans = points.len() - 1;
        let steps = spans * 4;
        let at = |k: usize| along(points, k as f32 / 4.0);
        let mut left = Vec::with_capacity(2 * steps + 2);
        let mut right = Vec::with_capacity(steps + 1);
        let mut side = vec2(0.0, 0.0);
        for k in 0..=steps {
            let ahead = at((k + 1).min(steps)) - at(k.saturating_sub(1));
            let turned = ahead.unit().turned();
            // A line that stands still keeps its side.
            if turned != vec2(0.0, 0.0) {
                side = turned;
            }
            let half = side * (0.5 * width(k as f32 / steps as f32));
            left.push(at(k) + half);
            right.push(at(k) - half);
        }
        left.extend(right.into_iter().rev());
        Self::polygon(&left)
    }

    /// A brush line that is thin at both ends.
    pub fn stroke(points: &[Vec2], width: f32) -> Self {
        Self::brush(points, |t| width * taper(t))
    }
}

/// Thin at 0 and 1, whole between.
pub(crate) fn taper(t: f32) -> f32 {
    let x = 2.0 * t - 1.0;
    let x2 = x * x;
    0.18 + 0.82 * (1.0 - x2 * x2)
}

/// How much of each pixel something covers, 0 to 255.
#[derive(Clone, Debug, Default)]
pub(crate) struct Mask {
    coverage: Vec<u8>,
    size: usize,
    /// Left, top, right and bottom of what is covered, in pixels; right and bottom excluded.
    bounds: [usize; 4],
}

impl Mask {
    fn clear(&mut self, size: usize) {
        self.coverage.clear();
        self.coverage.resize(size * size, 0);
        self.size = size;
        self.bounds = [0; 4];
    }

    fn is_empty(&self) -> bool {
        self.bounds[0] >= self.bounds[2] || self.bounds[1] >= self.bounds[3]
    }

    /// Takes away what the other covers.
    pub fn subtract(&mut self, other: &Self) {
        for (a, b) in self.coverage.iter_mut().zip(&other.coverage) {
            *a = scale(*a, 255 - b);
        }
    }

    /// Keeps what the other covers.
    pub fn intersect(&mut self, other: &Self) {
        for (a, b) in self.coverage.iter_mut().zip(&other.coverage) {
            *a = scale(*a, *b);
        }
    }

    /// Adds what the other covers.
    pub fn unite(&mut self, other: &Self) {
        if other.is_empty() {
            return;
        }
        for (a, b) in self.coverage.iter_mut().zip(&other.coverage) {
            *a = 255 - scale(255 - *a, 255 - b);
        }
        let [l, t, r, b] = other.bounds;
        self.bounds = if self.is_empty() {
            other.bounds
        } else {
            let [l0, t0, r0, b0] = self.bounds;
            [l0.min(l), t0.min(t), r0.max(r), b0.max(b)]
        };
    }
}

fn scale(a: u8, b: u8) -> u8 {
    ((u32::from(a) * u32::from(b) + 127) / 255) as u8
}

/// A square picture that is painted on. Its fourth channel says how much of a pixel the figure covers.
#[derive(Default)]
pub(crate) struct Canvas {
    size: usize,
    pixels: Vec<[f32; 4]>,
    spare: Vec<[f32; 4]>,
    coverage: Vec<u8>,
    scratch: Scratch,
    /// 1 while the figure is painted, 0 for what lies behind it.
    pub figure: f32,
}

impl std::fmt::Debug for Canvas {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Canvas")
            .field("size", &self.size)
            .finish_non_exhaustive()
    }
}

impl Canvas {
    pub fn clear(&mut self, size: usize) {
        self.size = size;
        self.figure = 0.0;
        self.pixels.clear();
        self.pixels.resize(size * size, [0.0; 4]);
    }

    /// A pixel's side in picture units.
    pub fn pixel(&self) -> f32 {
        1.0 / self.size as f32
    }

    /// Rasterizes into `self.coverage`, and returns the part of the picture it is for: left, top, right, bottom.
    fn cover(&mut self, path: &Path) -> Option<[usize; 4]> {
        let size = self.size as f32;
        let low = |v: f32| (v * size).floor().clamp(0.0, size) as usize;
        let high = |v: f32| (v * size).ceil().clamp(0.0, size) as usize;
        let bounds = [
            low(path.low.x),
            low(path.low.y),
            high(path.high.x),
            high(path.high.y),
        ];
        let [left, top, right, bottom] = bounds;
        if path.commands.is_empty() || left >= right || top >= bottom {
            return None;
        }
        let (width, height) = (right - left, bottom - top);
        self.coverage.clear();
        self.coverage.resize(width * height, 0);
        zeno::Mask::with_scratch(&path.commands[..], &mut self.scratch)
            .transform(Some(Transform::scale(size, size)))
            .size(width as u32, height as u32)
            .offset((-(left as f32), -(top as f32)))
            .render_into(&mut self.coverage, None);
        Some(bounds)
    }

    /// What a path covers, as a mask.
    pub fn mask(&mut self, path: &Path) -> Mask {
        let mut mask = Mask::default();
        self.mask_into(path, &mut mask);
        mask
    }

    /// As [`Canvas::mask`], in a mask that is there already.
    pub fn mask_into(&mut self, path: &Path, mask: &mut Mask) {
        mask.clear(self.size);
        let Some(bounds) = self.cover(path) else {
            return;
        };
        let [left, top, right, bottom] = bounds;
        let width = right - left;
        for y in top..bottom {
            let from = (y - top) * width;
            let to = y * self.size + left;
            mask.coverage[to..to + width].copy_from_slice(&self.coverage[from..from + width]);
        }
        mask.bounds = bounds;
    }

    /// Paints where the path is. `paint` is asked for each pixel's middle, and told what is there; it gives a colour and how much it
    /// covers.
    pub fn fill(&mut self, path: &Path, paint: impl Fn(Vec2, Color) -> (Color, f32)) {
        if let Some(bounds) = self.cover(path) {
            let coverage = std::mem::take(&mut self.coverage);
            let [left, top, right, _] = bounds;
            let width = right - left;
            self.blend(bounds, |x, y| coverage[(y - top) * width + x - left], paint);
            self.coverage = coverage;
        }
    }

    /// As [`Canvas::fill`], but nowhere outside the mask.
    pub fn fill_in(
        &mut self,
        path: &Path,
        within: &Mask,
        paint: impl Fn(Vec2, Color) -> (Color, f32),
    ) {
        if let Some(bounds) = self.cover(path) {
            let coverage = std::mem::take(&mut self.coverage);
            let [left, top, right, _] = bounds;
            let (width, size) = (right - left, self.size);
            self.blend(
                bounds,
                |x, y| {
                    scale(
                        coverage[(y - top) * width + x - left],
                        within.coverage[y * size + x],
                    )
                },
                paint,
            );
            self.coverage = coverage;
        }
    }

    /// Paints where the mask is.
    pub fn fill_mask(&mut self, mask: &Mask, paint: impl Fn(Vec2, Color) -> (Color, f32)) {
        let size = self.size;
        if !mask.is_empty() {
            self.blend(mask.bounds, |x, y| mask.coverage[y * size + x], paint);
        }
    }

    /// Paints everywhere.
    pub fn fill_all(&mut self, paint: impl Fn(Vec2, Color) -> (Color, f32)) {
        self.blend([0, 0, self.size, self.size], |_, _| 255, paint);
    }

    fn blend(
        &mut self,
        [left, top, right, bottom]: [usize; 4],
        coverage: impl Fn(usize, usize) -> u8,
        paint: impl Fn(Vec2, Color) -> (Color, f32),
    ) {
        let step = self.pixel();
        for y in top..bottom {
            for x in left..right {
                let covered = coverage(x, y);
                if covered == 0 {
                    continue;
                }
                let pixel = &mut self.pixels[y * self.size + x];
                let [r, g, b, _] = *pixel;
                let middle = vec2((x as f32 + 0.5) * step, (y as f32 + 0.5) * step);
                let (color, alpha) = paint(middle, rgb(r, g, b));
                let share = alpha * f32::from(covered) * (1.0 / 255.0);
                let to = [color.r, color.g, color.b, self.figure];
                for (channel, to) in pixel.iter_mut().zip(to) {
                    *channel += (to - *channel) * share;
                }
            }
        }
    }

    /// Blurs all that is painted, by a radius in picture units.
    pub fn blur(&mut self, radius: f32) {
        let radius = (radius * self.size as f32 + 0.5) as usize;
        if radius == 0 {
            return;
        }
        self.spare.clear();
        self.spare.resize(self.pixels.len(), [0.0; 4]);
        let size = self.size;
        for _ in 0..2 {
            for y in 0..size {
                let row = y * size;
                box_blur(&self.pixels, &mut self.spare, row, 1, size, radius);
            }
            for x in 0..size {
                box_blur(&self.spare, &mut self.pixels, x, size, size, radius);
            }
        }
    }

    /// A soft copy of a mask, moved by `by` and blurred by `radius`, both in picture units.
    pub fn soften(&mut self, mask: &Mask, by: Vec2, radius: f32) -> Mask {
        let size = self.size;
        let round = |v: f32| (v * size as f32).round() as isize;
        let (dx, dy) = (round(by.x), round(by.y));
        let radius = ((radius * size as f32) + 0.5) as usize;
        let mut soft = Mask::default();
        soft.clear(size);
        if mask.is_empty() {
            return soft;
        }
        let within = |v: isize| v.clamp(0, size as isize) as usize;
        let [left, top, right, bottom] = mask.bounds;
        for y in top..bottom {
            let to_y = y as isize + dy;
            if to_y < 0 || to_y >= size as isize {
                continue;
            }
            let (from, to) = (within(left as isize + dx), within(right as isize + dx));
            if from < to {
                let source = y * size + (from as isize - dx) as usize;
                let target = to_y as usize * size;
                soft.coverage[target + from..target + to]
                    .copy_from_slice(&mask.coverage[source..source + to - from]);
            }
        }
        if radius > 0 {
            let mut spare = vec![0; size * size];
            for _ in 0..2 {
                blur_columns(&soft.coverage, &mut spare, size, radius);
                blur_columns(&spare, &mut soft.coverage, size, radius);
                transpose(&soft.coverage, &mut spare, size);
                std::mem::swap(&mut soft.coverage, &mut spare);
            }
        }
        soft.bounds = [0, 0, size, size];
        soft
    }

    /// The figure so far, as a mask.
    pub fn figure_mask(&self) -> Mask {
        Mask {
            coverage: self
                .pixels
                .iter()
                .map(|p| (p[3].clamp(0.0, 1.0) * 255.0 + 0.5) as u8)
                .collect(),
            size: self.size,
            bounds: [0, 0, self.size, self.size],
        }
    }

    /// Writes red, green and blue bytes, row by row.
    pub fn write(&self, picture: &mut [u8]) {
        for (bytes, pixel) in picture.chunks_exact_mut(3).zip(&self.pixels) {
            for (byte, channel) in bytes.iter_mut().zip(pixel) {
                *byte = (channel.clamp(0.0, 1.0) * 255.0 + 0.5) as u8;
            }
        }
    }
}

/// The mean of each pixel's neighbours in a line of `count` pixels; the ends are repeated.
fn box_blur(
    from: &[[f32; 4]],
    to: &mut [[f32; 4]],
    start: usize,
    step: usize,
    count: usize,
    radius: usize,
) {
    let at = |i: isize| from[start + i.clamp(0, count as isize - 1) as usize * step];
    let radius = radius as isize;
    let share = 1.0 / (2 * radius + 1) as f32;
    let mut sum = [0.0_f32; 4];
    for i in -radius..=radius {
        let pixel = at(i);
        for (sum, channel) in sum.iter_mut().zip(pixel) {
            *sum += channel;
        }
    }
    for i in 0..count as isize {
        to[start + i as usize * step] = sum.map(|channel| channel * share);
        let (enters, leaves) = (at(i + radius + 1), at(i - radius));
        for k in 0..4 {
            sum[k] += enters[k] - leaves[k];
        }
    }
}

/// The mean of each byte's neighbours above and below; the ends are repeated.
fn blur_columns(from: &[u8], to: &mut [u8], size: usize, radius: usize) {
    let row = |y: isize| {
        let y = y.clamp(0, size as isize - 1) as usize;
        &from[y * size..(y + 1) * size]
    };
    let radius = radius as isize;
    let share = (1 << 16) / (2 * radius as u32 + 1) + 1;
    let mut sums = vec![0_u32; size];
    for y in -radius..=radius {
        for (sum, byte) in sums.iter_mut().zip(row(y)) {
            *sum += u32::from(*byte);
        }
    }
    for (y, to) in to.chunks_exact_mut(size).enumerate() {
        let (enters, leaves) = (row(y as isize + radius + 1), row(y as isize - radius));
        for x in 0..size {
            to[x] = ((sums[x] * share) >> 16).min(255) as u8;
            sums[x] = sums[x] + u32::from(enters[x]) - u32::from(leaves[x]);
        }
    }
}

fn transpose(from: &[u8], to: &mut [u8], size: usize) {
    for (x, to) in to.chunks_exact_mut(size).enumerate() {
        for (y, to) in to.iter_mut().enumerate() {
            *to = from[y * size + x];
        }
    }
}
