// Reads a repository with tuf-js, which shares no code with us.
// Usage: node verify.mjs <folder with node_modules> <base URL> <work folder with root.json>
// Prints one JSON line: the content of each target named on stdin (one per
// line), or null where tuf-js finds none.
import { createRequire } from "node:module";
import { readFileSync } from "node:fs";
import { join } from "node:path";

const [modules, base, work] = process.argv.slice(2);
const { Updater } = createRequire(join(modules, "x.js"))("tuf-js");
const updater = new Updater({
  metadataDir: work,
  targetDir: work,
  metadataBaseUrl: base + "/tuf/metadata",
  targetBaseUrl: base + "/tuf/targets",
});
await updater.refresh();
const found = {};
for (const name of readFileSync(0, "utf8").split("\n").filter(Boolean)) {
  const info = await updater.getTargetInfo(name);
  found[name] = info ? readFileSync(await updater.downloadTarget(info, join(work, "target")), "utf8") : null;
}
console.log(JSON.stringify(found));
