//! Bar charts as SVG, written by hand: groups of bars with their values, light or dark after the reader's setting.

/// One chart.
pub struct Chart {
    /// Above it.
    pub title: String,
    /// Below each group.
    pub groups: Vec<String>,
    /// What is compared.
    pub series: Vec<Series>,
    /// A line at this height, e.g. what the relay needs.
    pub line: Option<f64>,
    /// Digits after the point.
    pub digits: usize,
}

/// Bars of one kind.
pub struct Series {
    /// In the legend.
    pub name: String,
    /// Its own colour, the same in every chart.
    pub colour: &'static str,
    /// A value for each group.
    pub values: Vec<Option<f64>>,
}

const WIDTH: f64 = 860.0;
const HEIGHT: f64 = 360.0;
const TOP: f64 = 64.0;
const BOTTOM: f64 = 36.0;
const LEFT: f64 = 16.0;
/// Share of a group's width that is left empty between groups.
const GAP: f64 = 0.14;
impl Chart {
    /// The file's text; nothing if there is no value.
    pub fn svg(&self) -> Option<String> {
        let values = self.series.iter().flat_map(|s| s.values.iter().flatten());
        let highest = values.copied().fold(0.0, f64::max);
        if highest <= 0.0 {
            return None;
        }
        let highest = highest.max(self.line.unwrap_or(0.0));
        let scale = (HEIGHT - TOP - BOTTOM) / highest;
        let mut text = format!(
            "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {WIDTH} {HEIGHT}\" font-family=\"sans-serif\" font-size=\"11\">\n\
             <style>text{{fill:#222}}@media(prefers-color-scheme:dark){{text{{fill:#ddd}}}}</style>\n\
             <text x=\"{LEFT}\" y=\"20\" font-size=\"15\">{}</text>\n",
            escape(&self.title)
        );
        self.legend(&mut text);
        let group = (WIDTH - LEFT * 2.0) / self.groups.len().max(1) as f64;
        let bar = group * (1.0 - GAP) / self.series.len().max(1) as f64;
        for (place, name) in self.groups.iter().enumerate() {
            let left = LEFT + group * place as f64;
            let middle = left + group * (1.0 - GAP) / 2.0;
            text.push_str(&format!(
                "<text x=\"{middle:.1}\" y=\"{:.1}\" text-anchor=\"middle\">{}</text>\n",
                HEIGHT - 14.0,
                escape(name)
            ));
            for (position, series) in self.series.iter().enumerate() {
                let Some(value) = series.values.get(place).copied().flatten() else { continue };
                let (x, high) = (left + bar * position as f64, value * scale);
                let y = HEIGHT - BOTTOM - high;
                text.push_str(&format!(
                    "<rect x=\"{x:.1}\" y=\"{y:.1}\" width=\"{:.1}\" height=\"{high:.1}\" fill=\"{}\"/>\n\
                     <text x=\"{:.1}\" y=\"{:.1}\" text-anchor=\"middle\" font-size=\"9\">{value:.*}</text>\n",
                    bar * 0.92,
                    series.colour,
                    x + bar * 0.46,
                    y - 3.0,
                    self.digits
                ));
            }
        }
        if let Some(line) = self.line {
            let y = HEIGHT - BOTTOM - line * scale;
            text.push_str(&format!(
                "<line x1=\"{LEFT}\" y1=\"{y:.1}\" x2=\"{:.1}\" y2=\"{y:.1}\" stroke=\"#c0392b\" stroke-dasharray=\"5 4\"/>\n",
                WIDTH - LEFT
            ));
        }
        text.push_str("</svg>\n");
        Some(text)
    }

    fn legend(&self, text: &mut String) {
        let mut x = LEFT;
        for Series { name, colour, .. } in &self.series {
            text.push_str(&format!(
                "<rect x=\"{x:.1}\" y=\"32\" width=\"11\" height=\"11\" fill=\"{colour}\"/><text x=\"{:.1}\" y=\"42\">{}</text>\n",
                x + 15.0,
                escape(name)
            ));
            x += 30.0 + 7.0 * name.chars().count() as f64;
        }
    }
}

fn escape(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_chart_has_a_bar_for_every_value_and_none_for_what_is_missing() {
        let series = |name: &str, values| Series { name: name.into(), colour: "#000", values };
        let chart = Chart {
            title: "a < b".into(),
            groups: vec!["c=1".into(), "c=8".into()],
            series: vec![series("relay", vec![Some(1.0), Some(1.0)]), series("leno", vec![Some(2.0), None])],
            line: Some(1.0),
            digits: 2,
        };
        let svg = chart.svg().unwrap();
        assert_eq!(svg.matches("<rect").count(), 2 + 3, "{svg}");
        assert!(svg.contains("a &lt; b") && svg.contains("<line"));
        assert_eq!(Chart { series: Vec::new(), ..chart }.svg(), None);
    }
}
