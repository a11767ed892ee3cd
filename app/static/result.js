// Clicks on bars, regions and faces go to the server; what the pointer is on lights up in the picture and in the list.
const codeAt = (event) => event.target.closest("[data-code]")?.dataset.code;
const light = (code) => {
  for (const node of element.querySelectorAll("[data-code]")) node.classList.toggle("lit", node.dataset.code === code);
};
element.addEventListener("click", (event) => {
  const target = event.target.closest("[data-code], [data-face]");
  if (!target) return;
  const { code = null, prefix = null, face = null } = target.dataset;
  trigger("select", { code, prefix, face });
});
element.addEventListener("pointerover", (event) => light(codeAt(event)));
element.addEventListener("pointerleave", () => light(undefined));
