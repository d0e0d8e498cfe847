//! Ways to colour an area: functions of a place and of the colour that is there, which give a colour and how much it covers.

use super::color::Color;
use super::geometry::Vec2;
use super::light::Light;
use super::scene::Ball;

/// A colour in this light, on a surface that is round as `ball`.
pub(crate) fn lit(light: &Light, ball: Ball, color: Color) -> impl Fn(Vec2, Color) -> (Color, f32) {
    move |p, _| (light.on(color, ball.normal(p)), 1.0)
}

/// A colour as it is.
pub(crate) fn tint(color: Color, alpha: f32) -> impl Fn(Vec2, Color) -> (Color, f32) {
    move |_, _| (color, alpha)
}

/// What is there, multiplied.
pub(crate) fn darken(by: Color, alpha: f32) -> impl Fn(Vec2, Color) -> (Color, f32) {
    move |_, below| (below * by, alpha)
}

/// The same, but covering less.
pub(crate) fn faint(
    paint: impl Fn(Vec2, Color) -> (Color, f32),
    alpha: f32,
) -> impl Fn(Vec2, Color) -> (Color, f32) {
    move |p, below| {
        let (color, whole) = paint(p, below);
        (color, whole * alpha)
    }
}
