// The API's description in Swagger UI: every route with its parameters, bodies, answers and problems, to be tried out.

import { apiKey } from "./api.js";

window.SwaggerUIBundle({
  url: "/openapi.json",
  dom_id: "#api",
  deepLinking: false, // its links would be inside of buttons, which screen readers cannot tell apart
  validatorUrl: null,
  requestInterceptor: (request) => {
    const key = apiKey.get();
    if (key && !request.headers.Authorization) request.headers.Authorization = `Bearer ${key}`;
    return request;
  },
  onComplete: () => {
    for (const heading of document.querySelectorAll("h3.opblock-tag, section.models h4")) heading.setAttribute("aria-level", "2");
  },
});
