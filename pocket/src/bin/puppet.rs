//! dev
use samecast_pocket::puppet::*;
fn main() {
    let a: Vec<String> = std::env::args().collect();
    let size: u32 = a[1].parse().unwrap();
    let mode = &a[2];
    let out = &a[3];
    let mut cells = vec![];
    let base = Shot { angle: Angle::Front, expression: Expression::Neutral, lighting: Lighting::Natural, place: Place::White, outfit: Outfit::Hoodie, seed: 1 };
    let start: u64 = a.get(4).map(|s| s.parse().unwrap()).unwrap_or(0);
    let mut cols = 8;
    let t = std::time::Instant::now();
    match mode.as_str() {
        "angles" => { cols = 7; for c in start..start+4 { let ch = Character::from_seed(c); for (i,an) in Angle::ALL.iter().enumerate() { cells.push(draw(&ch, &Shot { angle: *an, seed: i as u64, ..base }, size)); } } }
        "expr" => { cols = 5; for c in start..start+4 { let ch = Character::from_seed(c); for (i,an) in Expression::ALL.iter().enumerate() { cells.push(draw(&ch, &Shot { expression: *an, seed: i as u64, ..base }, size)); } } }
        "profile" => { cols = 5; for c in start..start+4 { let ch = Character::from_seed(c); for (i,an) in Expression::ALL.iter().enumerate() { cells.push(draw(&ch, &Shot { angle: if c%2==0 {Angle::ProfileRight} else {Angle::ProfileLeft}, expression: *an, seed: i as u64, ..base }, size)); } } }
        "quarter" => { cols = 5; for c in start..start+4 { let ch = Character::from_seed(c); for (i,an) in Expression::ALL.iter().enumerate() { cells.push(draw(&ch, &Shot { angle: if c%2==0 {Angle::ThreeQuarterRight} else {Angle::ThreeQuarterLeft}, expression: *an, seed: i as u64, ..base }, size)); } } }
        "bench" => { for i in 0..2000u64 { cells.push(draw(&Character::from_seed(start+i), &Shot::random(start+i), size)); } eprintln!("{:.3} ms each", t.elapsed().as_secs_f64()*1000.0/2000.0); return; }
        "light" => { cols = 5; for c in start..start+4 { let ch = Character::from_seed(c); for (i,an) in Lighting::ALL.iter().enumerate() { cells.push(draw(&ch, &Shot { lighting: *an, seed: i as u64, ..base }, size)); } } }
        "places" => { cols = 8; for (i,an) in Place::ALL.iter().enumerate() { let ch = Character::from_seed(start+i as u64); cells.push(draw(&ch, &Shot { place: *an, seed: i as u64, ..base }, size)); } }
        "outfits" => { cols = 8; for k in 0..2 { for (i,an) in Outfit::ALL.iter().enumerate() { let ch = Character::from_seed(start+i as u64); cells.push(draw(&ch, &Shot { outfit: *an, angle: Angle::ALL[(i*k*2)%7], seed: i as u64, ..base }, size)); } } }
        "cuts" => { cols = 8; for (i,cut) in Cut::WOMEN.iter().chain(Cut::MEN).enumerate() { let mut ch = Character::with_sex(start+i as u64, if i<12 {Sex::Woman} else {Sex::Man}); ch.hair.cut = *cut; 
            for k in [0,2,3,5] { cells.push(draw(&ch, &Shot { angle: Angle::ALL[k], seed: i as u64, ..base }, size)); } } }
        "random" => { cols = 8; for i in 0..40u64 { cells.push(draw(&Character::from_seed(start+i), &Shot::random(start+i), size)); } }
        _ => { for i in 0..32u64 { cells.push(draw(&Character::from_seed(start+i), &Shot { seed: i, ..base }, size)); } }
    }
    eprintln!("{} pictures, {:.2} ms each", cells.len(), t.elapsed().as_secs_f64()*1000.0/cells.len() as f64);
    let rows = (cells.len() as u32).div_ceil(cols);
    let mut sheet = image::RgbImage::new(cols*size, rows*size);
    for (i,c) in cells.iter().enumerate() { image::imageops::replace(&mut sheet, c, ((i as u32%cols)*size) as i64, ((i as u32/cols)*size) as i64); }
    sheet.save(out).unwrap();
}
