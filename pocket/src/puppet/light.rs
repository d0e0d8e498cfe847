use super::color::{Color, rgb};
use super::geometry::{Vec3, smoothstep, vec3};
use super::random::Random;
use super::shot::Lighting;

/// How light falls on the figure, and what it does to the place behind.
#[derive(Clone, Debug)]
pub(crate) struct Light {
    /// Which lighting it is.
    pub kind: Lighting,
    /// The direction to the strongest light, as the camera sees it.
    pub toward: Vec3,
    /// -1 if it comes from the picture's left, 1 from the right.
    pub side: f32,
    /// What lit and shaded colours are multiplied by.
    pub lit: Color,
    pub shade: Color,
    /// Where shade begins and light is whole, as the cosine between surface and light.
    pub edge: [f32; 2],
    /// The light along the figure's edge, and how much there is of it on the left and on the right.
    pub rim: Color,
    pub rims: [f32; 2],
    /// What the place's colours are multiplied by, and how colourful they stay.
    pub backdrop: Color,
    pub saturation: f32,
}

impl Light {
    pub fn new(kind: Lighting, seed: u64) -> Self {
        let mut random = Random::new(seed, "light");
        let side = if random.chance(0.5) { 1.0 } else { -1.0 };
        let lean = random.range(0.85, 1.15);
        let base = Self {
            kind,
            toward: vec3(0.55 * side * lean, -0.55, 0.75).unit(),
            side,
            lit: rgb(1.02, 1.01, 1.0),
            shade: rgb(0.80, 0.72, 0.77),
            edge: [-0.25, 0.45],
            rim: rgb(1.0, 1.0, 1.0),
            rims: [0.0, 0.0],
            backdrop: rgb(1.0, 1.0, 1.0),
            saturation: 1.0,
        };
        let on_side = |near: f32, far: f32| if side < 0.0 { [near, far] } else { [far, near] };
        match kind {
            Lighting::Natural => Self {
                rims: on_side(0.10, 0.0),
                ..base
            },
            Lighting::Warm => Self {
                lit: rgb(1.07, 0.96, 0.76),
                shade: rgb(0.78, 0.53, 0.42),
                edge: [-0.35, 0.5],
                rim: rgb(1.0, 0.80, 0.45),
                rims: on_side(0.45, 0.0),
                backdrop: rgb(1.0, 0.78, 0.52),
                saturation: 0.85,
                ..base
            },
            Lighting::Dramatic => Self {
                toward: vec3(0.93 * side, -0.25, 0.22 * lean).unit(),
                lit: rgb(1.08, 1.03, 0.98),
                shade: rgb(0.33, 0.29, 0.40),
                edge: [-0.04, 0.40],
                rim: rgb(0.55, 0.65, 0.95),
                rims: on_side(0.0, 0.35),
                backdrop: rgb(0.38, 0.36, 0.44),
                saturation: 0.8,
                ..base
            },
            Lighting::Backlit => Self {
                toward: vec3(0.1 * side, -0.9, -0.2).unit(),
                lit: rgb(0.80, 0.69, 0.70),
                shade: rgb(0.56, 0.46, 0.57),
                edge: [-0.3, 0.9],
                rim: rgb(1.0, 0.95, 0.80),
                rims: [1.0, 1.0],
                backdrop: rgb(1.05, 1.0, 0.94),
                saturation: 0.75,
                ..base
            },
            Lighting::Night => Self {
                toward: vec3(0.6 * side * lean, -0.6, 0.5).unit(),
                lit: rgb(0.62, 0.70, 1.02),
                shade: rgb(0.30, 0.32, 0.58),
                edge: [-0.2, 0.6],
                rim: rgb(0.55, 0.75, 1.0),
                rims: on_side(0.55, 0.0),
                backdrop: rgb(0.24, 0.28, 0.50),
                saturation: 0.8,
                ..base
            },
        }
    }

    /// A colour in this light, on a surface that faces along `normal`.
    pub fn on(&self, color: Color, normal: Vec3) -> Color {
        let share = smoothstep(self.edge[0], self.edge[1], normal.dot(self.toward));
        color * self.shade.mix(self.lit, share)
    }

    /// A colour of the place in this light.
    pub fn behind(&self, color: Color) -> Color {
        color.saturated(self.saturation) * self.backdrop
    }
}
