//! The picture in README.md's section *Performance*: of each figure that has to reach something, how much of it there is.

use super::line::Line;
use std::fmt::Write as _;

/// Where the picture lies, in the repository.
pub(super) const FILE: &str = "tests/performance.svg";

/// Sizes (pixels): of a row, of the text before the bars, and of a power of ten.
const ROW: usize = 20;
const TEXT: usize = 470;
const DECADE: f64 = 130.0;
/// How many powers of ten there are on each side; what goes beyond is cut off there, and its number says how far.
const DECADES: f64 = 2.0;

/// A bar for each line: to the left what is better than has to be reached, to the right what is worse, on a logarithmic scale.
pub(super) fn svg(lines: &[Line]) -> String {
    let bars: Vec<(&Line, f64)> = lines.iter().filter_map(|line| Some((line, line.share()?))).filter(|(_, share)| *share > 0.0).collect();
    let (middle, width) = (TEXT as f64 + DECADES * DECADE, TEXT as f64 + 2.0 * DECADES * DECADE + 70.0);
    let height = (bars.len() + 2) * ROW;
    let mut svg = format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" width=\"{width}\" height=\"{height}\" font-family=\"sans-serif\" font-size=\"12\">\n\
         <rect width=\"100%\" height=\"100%\" fill=\"#ffffff\"/>\n"
    );
    let heads = [(0.01, "100 × better"), (0.1, "10 × better"), (1.0, "reach"), (10.0, "10 × worse"), (100.0, "100 × worse")];
    for (share, head) in heads {
        let x = at(share);
        let _ = writeln!(svg, "<text x=\"{x}\" y=\"14\" text-anchor=\"middle\" fill=\"#444444\">{head}</text>");
        let _ = writeln!(svg, "<line x1=\"{x}\" y1=\"{ROW}\" x2=\"{x}\" y2=\"{height}\" stroke=\"#cccccc\"/>");
    }
    for (row, (line, share)) in bars.iter().enumerate() {
        let y = (row + 1) * ROW;
        let (begin, end) = (at(*share).min(middle), at(*share).max(middle));
        let fill = if *share <= 1.0 { "#2e7d32" } else { "#c62828" };
        let name = escaped(&format!("{}: {}", line.scenario, line.metric));
        let (text, edge, anchor) = if *share <= 1.0 { (1.0 / share, begin - 4.0, "end") } else { (*share, end + 4.0, "start") };
        let _ = writeln!(svg, "<text x=\"8\" y=\"{}\">{name}</text>", y + 14);
        let _ =
            writeln!(svg, "<rect x=\"{begin:.1}\" y=\"{}\" width=\"{:.1}\" height=\"{}\" fill=\"{fill}\"/>", y + 3, end - begin, ROW - 6);
        let _ = writeln!(svg, "<text x=\"{edge:.1}\" y=\"{}\" text-anchor=\"{anchor}\" fill=\"#444444\">{text:.2} ×</text>", y + 14);
    }
    svg + "</svg>\n"
}

/// Where a share is: what has to be reached is in the middle.
fn at(share: f64) -> f64 {
    TEXT as f64 + (share.log10().clamp(-DECADES, DECADES) + DECADES) * DECADE
}

fn escaped(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::bench::line::{Reach, Samples};

    #[test]
    fn what_is_reached_lies_to_the_left_and_what_is_not_to_the_right() {
        let line = |metric: &str, ours: f64, reach: Reach| Line {
            scenario: "fetch",
            metric: metric.into(),
            unit: "s",
            ours: ours.into(),
            baseline: Samples::from(1.0),
            peer: "nginx".into(),
            reach,
            counts: true,
        };
        let lines = [
            line("a < b", 0.1, Reach::Times(1.0)),
            line("slow", 1000.0, Reach::Times(1.0)),
            line("no more than it has to", 1.3, Reach::AtLeastTimes(1.3)),
            line("to be known", 1.0, Reach::Nothing),
        ];
        let svg = svg(&lines);
        assert!(svg.contains("fetch: a &lt; b</text>\n<rect x=\"600.0\" y=\"23\" width=\"130.0\" height=\"14\" fill=\"#2e7d32\""), "{svg}");
        assert!(svg.contains("fetch: slow</text>\n<rect x=\"730.0\" y=\"43\" width=\"260.0\" height=\"14\" fill=\"#c62828\""), "{svg}");
        assert!(svg.contains("start\" fill=\"#444444\">1000.00 ×"), "{svg}");
        assert!(svg.contains("width=\"0.0\"") && !svg.contains("to be known"), "{svg}");
    }
}
