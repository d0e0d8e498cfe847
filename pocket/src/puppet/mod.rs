//! The puppet.

mod canvas;
mod character;
mod color;
mod face;
mod geometry;
mod hair;
mod light;
mod random;
mod scene;
mod shot;
mod surface;

pub use character::*;
pub use color::Color;
pub use shot::*;

use image::RgbImage;

/// draws
pub fn draw(character: &Character, shot: &Shot, size: u32) -> RgbImage {
    let mut canvas = canvas::Canvas::default();
    canvas.clear(size as usize);
    let scene = scene::Scene::new(character, shot);
    let l = &scene.light;
    canvas.fill_all(|p, _| (l.behind(color::rgb(0.75 + 0.1 * p.y, 0.80, 0.88)), 1.0));
    canvas.figure = 1.0;
    let hair = hair::Hair::new(&scene);
    if let Some(h) = &hair { h.behind(&mut canvas, &scene); }
    let head = face::head(&mut canvas, &scene);
    face::outline(&mut canvas, &scene);
    face::features(&mut canvas, &scene, &head);
    if let Some(h) = &hair { h.before(&mut canvas, &scene, &head); }
    let mut picture = RgbImage::new(size, size);
    canvas.write(&mut picture);
    picture
}
