//! Lines over a quantity in powers of two, as SVG: how a model does as T grows.
//!
//! A picture stands by itself: it asks for no font and no script, and is readable on light and dark.

use std::fmt::Write as _;

const WIDTH: f64 = 720.0;
const HEIGHT: f64 = 400.0;
const LEFT: f64 = 78.0;
const RIGHT: f64 = 24.0;
const TOP: f64 = 46.0;
const BOTTOM: f64 = 78.0;
/// From one row of the legend to the next.
const LEGEND_ROW: f64 = 18.0;
/// One after the other for lines; told apart by brightness too, and by their marks.
const COLOURS: [&str; 6] = [
    "#1f5fbf", "#c2492f", "#2e8f66", "#8f57b8", "#b07a10", "#5c6675",
];

/// A picture of lines.
#[derive(Clone, Debug, PartialEq)]
pub struct Plot {
    /// What is shown, in a line.
    pub title: String,
    /// What goes to the right.
    pub x: String,
    /// What goes up, with its unit.
    pub y: String,
    /// The lines.
    pub lines: Vec<Line>,
}

/// A line.
#[derive(Clone, Debug, PartialEq)]
pub struct Line {
    /// Its name.
    pub name: String,
    /// Points, by growing `x`.
    pub points: Vec<(f64, f64)>,
}

impl Plot {
    /// Draws it. Points that are not finite, or not above zero to the right, are left out.
    pub fn svg(&self) -> String {
        let drawn =
            |point: &&(f64, f64)| point.0 > 0.0 && point.0.is_finite() && point.1.is_finite();
        let points = || {
            self.lines
                .iter()
                .flat_map(|line| line.points.iter().filter(drawn))
        };
        let least = points().map(|p| p.0.log2()).fold(f64::INFINITY, f64::min);
        let most = points()
            .map(|p| p.0.log2())
            .fold(f64::NEG_INFINITY, f64::max);
        let highest = points().map(|p| p.1).fold(0.0, f64::max);
        let (step, top) = ticks(highest);
        let across = (most - least).max(1e-9);
        let x = |value: f64| match most > least {
            true => LEFT + (value.log2() - least) / across * (WIDTH - LEFT - RIGHT),
            false => (LEFT + WIDTH - RIGHT) / 2.0,
        };
        let y = |value: f64| HEIGHT - BOTTOM - value / top * (HEIGHT - TOP - BOTTOM);
        let legend = legend(&self.lines);
        let rows = legend.last().map_or(0.0, |(_, row)| *row as f64);
        let height = HEIGHT + rows * LEGEND_ROW;
        let mut out = format!(
            "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {WIDTH} {height}\" \
             font-family=\"sans-serif\" font-size=\"13\" role=\"img\">\n\
             <style>text{{fill:#1c2330}}.g{{stroke:#dde1e7}}.b{{fill:#fff}}\
             @media(prefers-color-scheme:dark){{text{{fill:#e4e8ee}}.g{{stroke:#39414d}}.b{{fill:#171b21}}}}</style>\n\
             <rect class=\"b\" width=\"{WIDTH}\" height=\"{height}\"/>\n\
             <text x=\"{LEFT}\" y=\"26\" font-size=\"16\" font-weight=\"bold\">{}</text>\n",
            escaped(&self.title)
        );
        // Writing to a string cannot fail.
        let mut at = 0.0;
        while at <= top * 1.0001 {
            let (left, right, height) = (LEFT, WIDTH - RIGHT, y(at));
            let _ = writeln!(
                out,
                "<line class=\"g\" x1=\"{left}\" x2=\"{right}\" y1=\"{height:.1}\" y2=\"{height:.1}\"/>\
                 <text x=\"{:.1}\" y=\"{:.1}\" text-anchor=\"end\">{}</text>",
                left - 8.0,
                height + 4.0,
                short(at)
            );
            at += step;
        }
        let mut marks: Vec<f64> = points().map(|p| p.0).collect();
        marks.sort_by(f64::total_cmp);
        marks.dedup();
        for mark in marks {
            let _ = writeln!(
                out,
                "<text x=\"{:.1}\" y=\"{:.1}\" text-anchor=\"middle\">{}</text>",
                x(mark),
                HEIGHT - BOTTOM + 20.0,
                short(mark)
            );
        }
        let _ = writeln!(
            out,
            "<text x=\"{:.1}\" y=\"{:.1}\" text-anchor=\"middle\">{}</text>\n\
             <text transform=\"translate(16 {:.1}) rotate(-90)\" text-anchor=\"middle\">{}</text>",
            (LEFT + WIDTH - RIGHT) / 2.0,
            HEIGHT - BOTTOM + 40.0,
            escaped(&self.x),
            (TOP + HEIGHT - BOTTOM) / 2.0,
            escaped(&self.y)
        );
        for (n, (line, (named, row))) in self.lines.iter().zip(legend).enumerate() {
            let colour = COLOURS[n % COLOURS.len()];
            let places: Vec<String> = (line.points.iter().filter(drawn))
                .map(|p| format!("{:.1},{:.1}", x(p.0), y(p.1)))
                .collect();
            let _ = writeln!(
                out,
                "<polyline fill=\"none\" stroke=\"{colour}\" stroke-width=\"2.2\" points=\"{}\"/>",
                places.join(" ")
            );
            for place in &places {
                let (cx, cy) = place.split_once(',').unwrap_or_default();
                let _ = writeln!(
                    out,
                    "<circle cx=\"{cx}\" cy=\"{cy}\" r=\"3.6\" fill=\"{colour}\"/>"
                );
            }
            let height = HEIGHT - 12.0 + row as f64 * LEGEND_ROW;
            let _ = writeln!(
                out,
                "<circle cx=\"{:.1}\" cy=\"{:.1}\" r=\"4\" fill=\"{colour}\"/>\
                 <text x=\"{:.1}\" y=\"{height:.1}\">{}</text>",
                named + 4.0,
                height - 4.0,
                named + 14.0,
                escaped(&line.name)
            );
        }
        out.push_str("</svg>\n");
        out
    }
}

/// Where each name of the legend begins, from the left, and in which row: a row ends at the right border.
fn legend(lines: &[Line]) -> Vec<(f64, usize)> {
    let (mut at, mut row) = (LEFT, 0);
    let place = |line: &Line| {
        let width = 30.0 + 7.2 * line.name.chars().count() as f64;
        if at > LEFT && at + width > WIDTH {
            (at, row) = (LEFT, row + 1);
        }
        let place = (at, row);
        at += width;
        place
    };
    lines.iter().map(place).collect()
}

/// Distance between marks, and the last of them: 4 to 8 steps of 1, 2 or 5 times a power of ten.
fn ticks(highest: f64) -> (f64, f64) {
    if highest <= 0.0 {
        return (1.0, 1.0);
    }
    let power = 10f64.powf((highest / 4.0).log10().floor());
    let steps = [1.0, 2.0, 5.0, 10.0].map(|times| times * power);
    let step = steps.into_iter().find(|step| highest / step <= 8.0);
    let step = step.unwrap_or(10.0 * power);
    (step, (highest / step).ceil() * step)
}

/// A number in few digits: `1.5`, `256`, `3.1 M`.
fn short(number: f64) -> String {
    let (scaled, unit) = match number {
        n if n >= 1e9 => (n / 1e9, " G"),
        n if n >= 1e6 => (n / 1e6, " M"),
        n if n >= 1e4 => (n / 1e3, " k"),
        n => (n, ""),
    };
    let text = format!("{scaled:.2}");
    let text = text.trim_end_matches('0').trim_end_matches('.');
    format!("{text}{unit}")
}

fn escaped(text: &str) -> String {
    let text = text.replace('&', "&amp;");
    text.replace('<', "&lt;").replace('>', "&gt;")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn marks_are_round_numbers_around_what_is_shown() {
        for (highest, step, top) in [
            (0.0, 1.0, 1.0),
            (3.1e6, 5e5, 3.5e6),
            (1.0, 0.2, 1.0),
            (7.9, 1.0, 8.0),
        ] {
            let (got_step, got_top) = ticks(highest);
            let near = |a: f64, b: f64| (a - b).abs() <= 1e-9 * b;
            assert!(near(got_step, step) && near(got_top, top), "{highest}");
        }
        assert_eq!(short(3_500_000.0), "3.5 M");
        assert_eq!(short(2048.0), "2048");
    }

    #[test]
    fn a_legend_goes_on_in_another_row() {
        let lines = |n: usize, name: &str| -> Vec<Line> {
            let line = Line {
                name: name.into(),
                points: vec![],
            };
            vec![line; n]
        };
        for (n, name, rows) in [(0, "", 0), (2, "fused", 1), (8, "hybrid unfused, B=8", 3)] {
            let legend = legend(&lines(n, name));
            let found = legend.last().map_or(0, |(_, row)| row + 1);
            assert_eq!(found, rows, "{n} times {name}");
            let width = 7.2 * name.chars().count() as f64;
            assert!(
                legend.iter().all(|(at, _)| at + width < WIDTH),
                "{legend:?}"
            );
        }
    }

    #[test]
    fn a_picture_holds_every_line_and_no_raw_name() {
        let line = |name: &str, points: &[(f64, f64)]| Line {
            name: name.into(),
            points: points.to_vec(),
        };
        let plot = Plot {
            title: "a < b".into(),
            x: "T".into(),
            y: "tokens/s".into(),
            lines: vec![
                line("fused", &[(256.0, 1e6), (512.0, 2e6), (1024.0, f64::NAN)]),
                line("<script>", &[(256.0, 5e5)]),
            ],
        };
        let svg = plot.svg();
        assert!(
            svg.contains("a &lt; b") && !svg.contains("<script>"),
            "{svg}"
        );
        assert_eq!(svg.matches("<polyline").count(), 2);
        assert!(!svg.contains("NaN") && !svg.contains("inf"), "{svg}");
        // One mark in the legend for each line, one for each point that can be drawn.
        assert_eq!(svg.matches("<circle").count(), 2 + 3);
    }
}
